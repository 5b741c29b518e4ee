import { LabIcon } from "@jupyterlab/ui-components";

/** Steps of a run, one behind the other, and an arrow that goes on. */
const SVG = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16">
<g class="jp-icon3" fill="none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">
<circle cx="6" cy="5" r="2"/><circle cx="6" cy="12" r="2"/><path d="M6 7v3M6 14v5h10M13 15l4 4-4 4M12 5h8M12 12h8"/>
</g></svg>`;

export const agentsIcon = new LabIcon({ name: "notebook-agents:icon", svgstr: SVG });

const FORK = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16">
<g class="jp-icon3" fill="none" stroke="#616161" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">
<circle cx="6" cy="5" r="2.5"/><circle cx="6" cy="19" r="2.5"/><circle cx="18" cy="7" r="2.5"/><path d="M6 8v8M18 10c0 4-12 2-12 6"/>
</g></svg>`;

export const forkIcon = new LabIcon({ name: "notebook-agents:fork", svgstr: FORK });
