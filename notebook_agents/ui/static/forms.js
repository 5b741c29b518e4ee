/* What a person fills in or reads in detail: answers, decisions, an opened row. */

import { LOOKS, button, clock, duration, money, node, tries } from "./looks.js";

function formOf(title) {
  const made = node("fieldset", "nat-form");
  made.append(node("legend", "", title));
  made.setAttribute("data-lm-suppress-shortcuts", "true");
  return made;
}

/** A question: calls answer(form, value). */
export function question(asked, answer) {
  const form = formOf(`${asked.node} asks`);
  const text = asked.text !== null ? asked.text
    : typeof asked.value === "string" ? asked.value : JSON.stringify(asked.value, null, 2);
  form.append(node("pre", "nat-asked", text));
  const field = area("Your answer", "");
  const json = node("input");
  json.type = "checkbox";
  const label = node("label", "nat-check");
  label.append(json, node("span", "", " the answer is JSON (true, 3, {\"a\": 1}), not text"));
  const send = button("Answer", "Go on with this answer", () => {
    const said = json.checked ? parsed(field) : { value: field.input.value };
    if (said) answer(form, said.value);
  });
  form.append(field.label, label, send);
  return form;
}

function area(title, value) {
  const label = node("label", "nat-field", title);
  const input = node("textarea");
  input.value = value;
  input.rows = Math.min(12, value.split("\n").length + 1);
  input.spellcheck = false;
  const wrong = node("span", "nat-wrong");
  wrong.setAttribute("role", "alert");
  label.append(input, wrong);
  return { label, input, wrong };
}

function parsed(field) {
  try {
    field.wrong.textContent = "";
    field.input.removeAttribute("aria-invalid");
    return { value: JSON.parse(field.input.value) };
  } catch (error) {
    field.wrong.textContent = `this is no JSON: ${error.message}`;
    field.input.setAttribute("aria-invalid", "true");
    field.input.focus();
    return null;
  }
}

/** Tool calls to decide on: calls answer(form, decisions). */
export function review(asked, answer) {
  const single = asked.value.type === "tool_approval";
  const requests = single ? [asked.value] : asked.value.action_requests;
  const form = formOf(requests.length === 1 ? "Decide on a tool call" : `Decide on ${requests.length} tool calls`);
  const send = button("Send", "Send these decisions", () => {
    const decisions = parts.map((part) => part.decision());
    if (decisions.every(Boolean)) answer(form, single ? decisions[0] : { decisions });
  });
  const parts = requests.map((one, place) => {
    const configs = asked.value.review_configs || [];
    const config = configs.find((other) => other.action_name === one.name) || configs[place] || {};
    const chosen = (choice) => {
      send.disabled = !parts.every((part) => part.choice());
      send.hidden = parts.length === 1 && choice === "approve";
      if (choice === "approve" && parts.length === 1) send.click();
    };
    return decisionOn(one, config.allowed_decisions || ["approve", "edit", "reject"], chosen);
  });
  send.disabled = true;
  send.hidden = parts.length === 1; // Approve sends by itself
  form.append(...parts.map((part) => part.element), send);
  return form;
}

/** One tool call to decide on. */
function decisionOn(asked, allowed, chosen) {
  const element = node("div", "nat-decision");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", `call of ${asked.name}`);
  element.append(node("code", "nat-tool", asked.name));
  // LangChain's own description repeats the call, which stands here already.
  const description = (asked.description || "").split(`\n\nTool: ${asked.name}\nArgs: `)[0];
  if (description) element.append(node("p", "nat-soft nat-wrap", description));
  const args = area("Arguments, as JSON", JSON.stringify(asked.args ?? {}, null, 2));
  args.input.readOnly = true;
  const reason = area("Reason", "");
  const titles = { reject: "Reason (the model reads it)", respond: "What the model gets in place of the tool's result" };
  reason.label.hidden = true;
  const bar = node("div", "nat-buttons");
  let choice = null;
  const choose = (what) => {
    choice = what;
    args.input.readOnly = what !== "edit";
    reason.label.hidden = !titles[what];
    reason.label.firstChild.textContent = titles[what] || "";
    for (const one of bar.children) one.setAttribute("aria-pressed", String(one.dataset.what === what));
    if (what === "edit") args.input.focus();
    else if (!reason.label.hidden) reason.input.focus();
    chosen(what);
  };
  const names = { approve: "Approve", edit: "Edit", reject: "Reject", respond: "Respond" };
  for (const what of allowed.filter((one) => names[one])) {
    const one = button(names[what], "", () => choose(what));
    one.dataset.what = what;
    one.setAttribute("aria-pressed", "false");
    bar.append(one);
  }
  element.append(args.label, bar, reason.label);
  const decision = () => {
    if (choice === "approve") return { type: "approve" };
    if (choice === "edit") {
      const edited = parsed(args);
      return edited && { type: "edit", edited_action: { name: asked.name, args: edited.value } };
    }
    const message = reason.input.value;
    return choice === "respond" || message ? { type: choice, message } : { type: choice };
  };
  return { element, choice: () => choice, decision };
}

/** Ask whether a step in doubt happened: calls said(happened, result). */
export function resolving(step, said) {
  const form = formOf("Did it happen? Look at the other side, then say it");
  form.append(node("p", "nat-soft", `Every attempt went out with the key ${step.key}`));
  const result = area("What it returned, as JSON", "null");
  const say = async (happened, value) => {
    form.disabled = true;
    await said(happened, value);
    form.disabled = false;
  };
  const bar = node("div", "nat-buttons");
  bar.append(
    button("It happened", "Its result is what you say; it is not run again", () => {
      const value = parsed(result);
      if (value) say(true, value.value);
    }),
    button("It did not", "It is run again when the run goes on", () => say(false, null)),
  );
  form.append(result.label, bar);
  return form;
}

/** What an opened row shows; `said` is told whether a step in doubt happened. */
export function facts(step, said) {
  const parts = [];
  const fact = (title, text, className) => {
    const line = node("div", "nat-fact");
    line.append(node("span", "nat-soft", title), node("pre", className || "", text));
    parts.push(line);
  };
  if (step.args !== null && step.args !== undefined) fact("arguments", step.args);
  if (step.result !== null && step.result !== undefined) fact("result", step.result);
  for (const attempt of step.attempts) {
    if (attempt.error) fact(step.attempts.length > 1 ? `error ${attempt.number}` : "error", attempt.error, "nat-error");
  }
  if (step.attempts.length > 1) fact(tries(step).number > 1 ? "attempts" : "course", step.attempts.map(attempt).join("\n"));
  for (const one of step.decisions) fact("said", `${one.said.replaceAll("_", " ")}${tries(step).number > 1 ? ` (attempt ${one.attempt})` : ""}, ${one.user} on ${one.host}, ${clock(one.at)}`);
  const cost = step.cost === null || step.cost === undefined ? "" : ` · ${money(step.cost)}`;
  fact("step", `${step.id} · started ${clock(step.started)}${cost}`);
  if (step.undecided) parts.push(resolving(step, said));
  return parts;
}

function attempt(one) {
  const took = one.seconds === null ? "" : `, ${duration(one.seconds)}`;
  const look = LOOKS[one.outcome] || ["", one.outcome];
  return `${one.number}: ${one.why || look[1]} (${clock(one.started)}${took})`;
}
