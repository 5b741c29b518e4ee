/** Elements of the panel. Texts are set as text, whoever wrote them. */

import type { LabIcon } from "@jupyterlab/ui-components";
import { button, node } from "../component";

/** A button with a sign and a name that is read out. */
export function sign(
  icon: LabIcon,
  title: string,
  onClick: (event: MouseEvent) => void
): HTMLButtonElement {
  const made = button("", title, onClick);
  made.className = "na-sign";
  icon.element({ container: made, height: "16px", width: "16px" });
  made.setAttribute("aria-label", title);
  return made;
}

/** A select of values and what they are called; the chosen one stays as long as it is offered. */
export function fill(select: HTMLSelectElement, options: [value: string, title: string][]): void {
  const before = [...select.options].map(one => `${one.value}\n${one.text}`).join("\n\n");
  if (before === options.map(([value, title]) => `${value}\n${title}`).join("\n\n")) {
    return;
  }
  const chosen = select.value;
  select.replaceChildren(
    ...options.map(([value, title]) => {
      const made = node("option", "", title);
      made.value = value;
      return made;
    })
  );
  if (options.some(([value]) => value === chosen)) {
    select.value = chosen;
  }
}

/** Have JupyterLab leave the keys to what is typed into here. */
export function ownKeys(element: HTMLElement): void {
  element.setAttribute("data-lm-suppress-shortcuts", "true");
}

/** A text with a button that copies it. */
export function copied(text: string): HTMLElement {
  const box = node("div", "na-command");
  const copy = button("Copy", "Copy this", () => {
    void navigator.clipboard.writeText(text).then(() => (copy.textContent = "Copied"));
  });
  box.append(node("pre", "", text), copy);
  return box;
}
