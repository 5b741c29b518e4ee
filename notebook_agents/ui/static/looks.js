/* How things are said: words, numbers, and the elements that say them. */

export const LOOKS = {
  running: ["▸", "running", "live"],
  returned: ["✓", "returned", "good"],
  failed: ["✗", "failed", "bad"],
  suspended: ["‖", "waiting", "doubt"],
  uncertain: ["?", "in doubt", "doubt"],
  late: ["~", "late", "doubt"],
  pending: ["○", "pending", "live"],
  succeeded: ["✓", "succeeded", "good"],
  cancelled: ["–", "cancelled", "doubt"],
  waiting: ["‖", "waiting for you", "doubt"],
  in_doubt: ["?", "in doubt", "doubt"],
  orphaned: ["!", "stopped", "doubt"],
  lost: ["!", "its kernel is gone", "doubt"],
};

export function node(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

export function button(text, title, onClick) {
  const made = node("button", "nat-button", text);
  made.type = "button";
  if (title) made.title = title;
  made.addEventListener("click", onClick);
  return made;
}

export function count(number, word) {
  return `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;
}

export function duration(seconds) {
  if (seconds < 0.9995) return `${Math.round(Math.max(seconds, 0) * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function money(dollars) {
  if (dollars >= 0.01 || dollars === 0) return `$${dollars.toFixed(2)}`;
  return `$${Number(dollars.toPrecision(2))}`;
}

export function clock(moment) {
  const at = new Date(moment);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleTimeString();
}

export function badge(look, className) {
  const [glyph, word, tone] = LOOKS[look] || ["·", look, "live"];
  const made = node("span", `${className} nat-${tone}`);
  const sign = node("span", "nat-glyph", glyph);
  sign.setAttribute("aria-hidden", "true");
  made.append(sign, node("span", "", word));
  return made;
}

/** How often a step was tried, and how often it asked: what asked and what went on are one try. */
export function tries(step) {
  const asked = step.attempts.slice(0, -1).filter((one) => one.outcome === "suspended").length;
  const number = step.attempts.length - asked;
  const said = [asked ? "answered" : "", number > 1 ? `${number} attempts` : ""].filter(Boolean);
  return { number, said };
}

/** Whether two states are of one run; one of a thread that was made anew began at another moment. */
export function sameRun(one, other) {
  return one.thread === other.thread && one.run === other.run && one.started === other.started;
}

export function works(state) {
  return state.status === "running" || state.status === "pending";
}
