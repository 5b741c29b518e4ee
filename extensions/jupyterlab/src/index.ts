/** Conversations of LangGraph agents in JupyterLab. */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from "@jupyterlab/application";
import { ICommandPalette } from "@jupyterlab/apputils";
import { IDocumentManager } from "@jupyterlab/docmanager";
import { INotebookTracker } from "@jupyterlab/notebook";
import { IRenderMimeRegistry } from "@jupyterlab/rendermime";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { Api } from "./api";
import { addCommands } from "./commands";
import { Controller } from "./controller";
import { Feeds } from "./feeds";
import { Heads } from "./heads";
import { Kernels } from "./kernels";
import { AgentsPanel } from "./panel/panel";
import { rendererFactory } from "./renderer";

const RANK = 350; // behind the file browser and the running kernels
const heads = new Heads();

const timeline: JupyterFrontEndPlugin<void> = {
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

const panel: JupyterFrontEndPlugin<void> = {
  id: "@notebook-agents/jupyterlab:panel",
  description: "Conversations of agents in a side panel.",
  autoStart: true,
  requires: [IDocumentManager, INotebookTracker],
  optional: [ICommandPalette, ILayoutRestorer, ISettingRegistry],
  activate: async (
    app: JupyterFrontEnd,
    documents: IDocumentManager,
    tracker: INotebookTracker,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    settings: ISettingRegistry | null
  ) => {
    const api = new Api(app.serviceManager.serverSettings);
    const kernels = new Kernels(app.serviceManager, documents, tracker);
    const controller = new Controller(api, kernels, heads);
    const widget = new AgentsPanel(controller);
    restorer?.add(widget, widget.id);
    addCommands(app, widget, controller, palette);
    app.shell.add(widget, "left", { rank: RANK, type: "Agents" });
    let follow = true;
    tracker.currentChanged.connect((_, notebook) => {
      controller.changed.emit();
      if (follow && notebook) {
        void controller.follow(notebook.context.path);
      }
    });
    void app.restored.then(() => controller.start());

    const loaded = await settings?.load(panel.id).catch(() => null);
    const apply = () => {
      follow = loaded?.get("follow").composite !== false;
      const side = loaded?.get("side").composite === "right" ? "right" : "left";
      if (side !== shown) {
        shown = side;
        app.shell.add(widget, side, { rank: RANK, type: "Agents" });
      }
    };
    let shown = "left";
    loaded?.changed.connect(apply);
    apply();
  }
};

export default [timeline, panel];
