// What is imported from notebook_agents/ui/static is plain JavaScript; component.ts gives it types.
declare module "*/static/kernel.js" {
  export const MEDIA_TYPE: any;
  export const execute: any;
  export const kernelActions: any;
  export const renew: any;
  export const print: any;
}
declare module "*/static/looks.js" {
  export const LOOKS: any;
  export const badge: any;
  export const button: any;
  export const count: any;
  export const node: any;
  export const works: any;
}
declare module "*/static/timeline.js" {
  export const mount: any;
}
