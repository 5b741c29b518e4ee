/** Conversations of LangGraph agents in JupyterLab. */

import type { JupyterFrontEnd, JupyterFrontEndPlugin } from "@jupyterlab/application";
import { INotebookTracker } from "@jupyterlab/notebook";
import { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import { Api } from "./api";
import { Feeds } from "./feeds";
import { Heads } from "./heads";
import { rendererFactory } from "./renderer";

const heads = new Heads();

const renderer: JupyterFrontEndPlugin<void> = {
  id: "@notebook-agents/jupyterlab:timeline",
  description: "A run's timeline under its cell, also without the kernel that made it.",
  autoStart: true,
  requires: [IRenderMimeRegistry],
  optional: [INotebookTracker],
  activate: (
    app: JupyterFrontEnd,
    rendermime: IRenderMimeRegistry,
    tracker: INotebookTracker | null
  ) => {
    const api = new Api(app.serviceManager.serverSettings);
    const feeds = new Feeds();
    feeds.publish();
    rendermime.addFactory(rendererFactory({ api, tracker, feeds, heads }));
  }
};

export default [renderer];
