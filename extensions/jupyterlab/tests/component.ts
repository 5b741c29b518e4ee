/** Lets Node find the timeline's component, which stands beside the sources and not the built tests. */

import Module, { createRequire } from "node:module";
import { basename, join } from "node:path";

const STATIC = join(__dirname, "../../../../notebook_agents/ui/static");
type Resolve = (request: string, ...more: unknown[]) => string;
const modules = Module as unknown as { _resolveFilename: Resolve };
const resolve = modules._resolveFilename;

modules._resolveFilename = (request, ...more) =>
  request.includes("/ui/static/") ? join(STATIC, basename(request)) : resolve(request, ...more);

/** Load one of its modules as it is. */
export function component<T>(name: string): T {
  return createRequire(__filename)(join(STATIC, name)) as T;
}
