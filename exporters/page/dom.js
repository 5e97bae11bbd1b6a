/** Elements, and messages to the visitor. */

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Announce a text to screen readers. */
export function say(text) {
  $("status").textContent = text;
}

/** Show a message on the page until it is dismissed or the image changes. */
export function warn(text) {
  const dismiss = element("button", { type: "button", textContent: "Dismiss" });
  dismiss.addEventListener("click", dismissWarning);
  $("alert").replaceChildren(element("p", { textContent: text }), dismiss);
}

export function dismissWarning() {
  $("alert").replaceChildren();
}

export function fail(error) {
  say("");
  warn(`Error: ${error.message ?? error}`);
  throw error;
}

/** Return an event listener that shows its errors on the page. */
export const safely = (listener) => async (event) => {
  try {
    await listener(event);
  } catch (error) {
    fail(error);
  }
};
