/** What the palette and the keyboard offer. */

import type { JupyterFrontEnd } from "@jupyterlab/application";
import type { ICommandPalette } from "@jupyterlab/apputils";
import type { Controller } from "./controller";
import type { AgentsPanel } from "./panel/panel";
import type { IThread, Status } from "./types";

export const SHOW = "notebook-agents:show";
const UNFINISHED: Status[] = ["orphaned", "failed", "pending", "waiting", "in_doubt"];

export function addCommands(
  app: JupyterFrontEnd,
  panel: AgentsPanel,
  controller: Controller,
  palette: ICommandPalette | null
): void {
  const { commands } = app;
  const { list, kernels } = controller;
  const show = () => app.shell.activateById(panel.id);
  /** The conversation that is open, else this notebook's newest that stands so. */
  const meant = (statuses: Status[]): IThread | undefined => {
    const open = panel.conversation?.thread;
    if (open) {
      return statuses.includes(open.status) ? open : undefined;
    }
    const here = list.rows.filter(one => one.notebook === kernels.current);
    return here.find(one => statuses.includes(one.status));
  };
  const add = (
    id: string,
    label: string,
    caption: string,
    execute: () => unknown,
    isEnabled?: () => boolean
  ) => {
    const command = `notebook-agents:${id}`;
    commands.addCommand(command, {
      label,
      caption,
      execute: async () => void (await execute()),
      isEnabled,
      describedBy: { args: { type: "object", properties: {} } }
    });
    palette?.addItem({ command, category: "Agents" });
  };
  const open = () => panel.conversation !== null;

  add("show", "Show Agents", "Conversations of agents in all notebooks", show);
  add("search", "Search Conversations", "Find a conversation by its name", () => {
    show();
    panel.search();
  });
  add("refresh", "Refresh Conversations", "Ask the server again", () => controller.start());
  add(
    "resume",
    "Resume Agent",
    "Go on with the open conversation, or this notebook's newest unfinished one",
    () => {
      const thread = meant(UNFINISHED);
      show();
      return thread && panel.act(thread, "resume");
    },
    () => meant(UNFINISHED) !== undefined
  );
  add(
    "stop",
    "Stop Agent",
    "Begin no further step in the open conversation, or this notebook's running one",
    () => {
      const thread = meant(["running"]);
      return thread && panel.act(thread, "stop");
    },
    () => meant(["running"]) !== undefined
  );
  add(
    "fork",
    "Fork Conversation",
    "A new one with this one's past",
    () => panel.conversation?.fork(null),
    open
  );
  add(
    "delete",
    "Delete Conversation…",
    "Delete the open conversation for good",
    () => panel.conversation && panel.remove(panel.conversation.thread),
    open
  );
  add("compact", "Compact Journal…", "Give back the space of what was deleted", () => {
    show();
    return panel.compact();
  });
}
