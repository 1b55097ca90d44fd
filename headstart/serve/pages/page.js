// What both pages need. Text from the server or the user only ever becomes text, never markup.

let key = "";

export function setKey(given) { key = given; }

/** An element with attributes ("class", "scope"), custom properties ("--share") and children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** The JSON that a route answers. Throws an Error with the server's words, and its status. */
export async function call(path, body) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = body === undefined ? { headers } : {
    method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) };
  let response, said;
  try {
    response = await fetch(path, options);
    said = await response.json();
  } catch {
    throw new Error("The server does not answer.");
  }
  if (!response.ok) {
    const error = new Error(said.error?.message ?? `status ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return said;
}
