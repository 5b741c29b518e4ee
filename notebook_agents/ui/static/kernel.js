/* Reaching a Jupyter kernel: what its buttons ask is executed there. */

export const MEDIA_TYPE = "application/vnd.notebook-agents.timeline.v1+json";
const REPLY = "application/vnd.notebook-agents.reply.v1+json";
const TRIES = 3;
const STOP_MS = 3000; // after this a kernel that does not answer is interrupted

/** Execute a request in a kernel, of @jupyterlab/services; return the reply. */
export async function execute(kernel, asked, onState, onText) {
  const said = JSON.stringify(JSON.stringify(asked));
  const code = `__import__("notebook_agents.ui.actions", fromlist=["request"]).request(${said})`;
  let reply = null;
  let problem = "the kernel gave no answer: try again when it is idle";
  for (let tries = 0; tries < TRIES; tries++) {
    const future = kernel.requestExecute({ code, silent: false, store_history: false, stop_on_error: false, allow_stdin: false });
    future.onIOPub = ({ header, content }) => {
      if (header.msg_type === "error") problem = `${content.ename}: ${content.evalue}`;
      if (header.msg_type === "stream" && onText) onText(content);
      const data = content.data || {};
      if (data[REPLY]) reply = data[REPLY];
      if (data[MEDIA_TYPE] && onState) onState(data[MEDIA_TYPE], data);
    };
    const { content } = await future.done;
    // What was sent before a cell ended with an error, as one that is stopped does, is dropped.
    if (content.status !== "aborted") break;
  }
  return reply || { ok: false, said: problem };
}

/** Execute a request beside what the kernel is busy with. */
async function executeBeside(kernel, asked) {
  const created = await kernel.requestCreateSubshell({}).done;
  const beside = kernel.clone();
  beside.subshellId = created.content.subshell_id;
  try {
    return await execute(beside, asked);
  } finally {
    beside.dispose(); // and its subshell with it
  }
}

async function stop(kernel, asked) {
  const interrupted = async () => {
    await kernel.interrupt();
    return { ok: true, said: "the kernel was interrupted: what returned is kept" };
  };
  if (!kernel.supportsSubshells) return interrupted();
  const late = new Promise((resolve) => setTimeout(() => resolve(null), STOP_MS));
  return (await Promise.race([executeBeside(kernel, asked).catch(() => null), late])) || interrupted();
}

/** Put a run's new record in the place of its old ones in a notebook: a fresh kernel, which did not
 *  run that cell, cannot. `cells` are of @jupyterlab/notebook's model. */
export function renew(cells, record) {
  for (const { outputs, place } of records(cells, record[MEDIA_TYPE])) {
    outputs.set(place, { output_type: "display_data", data: record, metadata: {} });
  }
}

/** Put what a run prints that a button began under the cell that shows it, as a cell's own prints. */
export function print(cells, state, { name, text }) {
  const [shown] = records(cells, state);
  if (shown) shown.outputs.add({ output_type: "stream", name, text });
}

/** Where a run's records are: {outputs, place} of each. */
function records(cells, { thread, run, journal }) {
  const found = [];
  for (const { outputs } of cells) {
    for (let place = 0; outputs && place < outputs.length; place++) {
      const old = outputs.get(place).data[MEDIA_TYPE];
      if (old && old.thread === thread && old.run === run && old.journal === journal) found.push({ outputs, place });
    }
  }
  return found;
}

/** What `mount` needs, for the kernel that `current` returns at each moment. */
export function kernelActions(current, onState, otherwise, onText) {
  return {
    request(asked) {
      const kernel = current();
      if (!kernel) return otherwise ? otherwise(asked) : Promise.reject(new Error("there is no kernel"));
      if (asked.action === "stop") return stop(kernel, asked);
      const busy = kernel.status === "busy" && kernel.supportsSubshells;
      if (asked.action === "detail" && busy) return executeBeside(kernel, asked);
      return execute(kernel, asked, onState, onText);
    },
    watch(tell) {
      const kernel = current();
      if (!kernel || !kernel.statusChanged) return () => {};
      let gone = false;
      const changed = (_, status) => {
        if (["restarting", "autorestarting", "dead", "terminating"].includes(status)) {
          gone = true;
          tell("lost");
        } else if (status === "idle" && gone) {
          gone = false;
          tell("ready");
        }
      };
      kernel.statusChanged.connect(changed);
      return () => kernel.statusChanged.disconnect(changed);
    },
  };
}
