/** Why there is nothing to show, and what a person does about it. */

export interface IProblem {
  kind: string;
  title: string;
  text: string;
  /** Commands to run, in a terminal or in a cell. */
  commands: { where: "terminal" | "cell"; text: string }[];
  /** Whether trying again may help. */
  again: boolean;
}

export interface IRefusal {
  status: number;
  code: string;
  message: string;
}

const FIRST_RUN = `import notebook_agents as na
from langgraph.graph import START, MessagesState, StateGraph

def greet(state):
    return {"messages": [("ai", "hello")]}

graph = StateGraph(MessagesState).add_node(greet).add_edge(START, "greet")
na.Agent(graph, name="greeter").run({"messages": [("user", "hi")]})`;

const terminal = (text: string): IProblem["commands"][0] => ({ where: "terminal", text });

/** What to say of a server that refused, or did not answer. */
export function problem({ status, code, message }: IRefusal): IProblem {
  const said = { text: message, commands: [], again: true };
  switch (code) {
    case "offline":
      return {
        ...said,
        kind: "offline",
        title: "Offline",
        text: "Jupyter Server does not answer. What ran goes on running; this page looks again by itself."
      };
    case "no_journal":
      return {
        kind: "no-journal",
        title: "No conversations yet",
        text: "The first run of an agent makes the journal. In a cell:",
        commands: [{ where: "cell", text: FIRST_RUN }],
        again: false
      };
    case "journal_damaged":
      return {
        ...said,
        kind: "damaged",
        title: "The journal is damaged",
        commands: [
          terminal("notebook-agents journal check"),
          terminal("notebook-agents journal repair")
        ]
      };
    case "journal_newer":
      return {
        ...said,
        kind: "mismatch",
        title: "The journal is of a newer version",
        commands: [terminal('pip install --upgrade "notebook-agents[lab]"')]
      };
    case "key_missing":
      return {
        ...said,
        kind: "key",
        title: "The key is not here",
        commands: [terminal("notebook-agents key import FILE")]
      };
    case "journal_busy":
      return { ...said, kind: "busy", title: "The journal is busy" };
  }
  if (status === 404 && !code) {
    return missing();
  }
  if (status === 403 || status === 401) {
    return {
      ...said,
      kind: "forbidden",
      title: "Not allowed",
      text: message || "Jupyter Server does not let you see this: log in again, or ask who runs it."
    };
  }
  const text = message || `Jupyter Server answered with status ${status}.`;
  return { ...said, kind: "failed", title: "It cannot be shown", text };
}

/** The server part is not installed, or not enabled. */
function missing(): IProblem {
  return {
    kind: "missing",
    title: "The server part does not answer",
    text:
      "This panel needs notebook-agents in the environment of Jupyter Server, and its server " +
      "extension enabled. Run these there, then start JupyterLab again:",
    commands: [
      terminal('pip install "notebook-agents[lab]"'),
      terminal("jupyter server extension enable notebook_agents.server")
    ],
    again: true
  };
}

/** The panel and the server part are of different versions. */
export function mismatch(version: string): IProblem {
  return {
    kind: "mismatch",
    title: "Two versions",
    text:
      `The server part (notebook-agents ${version}) speaks another version than this panel. ` +
      "Install one version of both, start JupyterLab again, and load this page again:",
    commands: [terminal('pip install --upgrade "notebook-agents[lab]"')],
    again: true
  };
}
