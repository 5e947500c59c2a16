"use strict";
// The browser keeps the conversation and sends it with every message. Text is inserted as text, never as markup.

const sides = document.body.dataset.sides.split(" ");
const names = { tuned: "Tuned", untuned: sides.length > 1 ? "Untuned" : "Model" };
const [log, hint, status, system, message, send, stop] =
  ["log", "hint", "status", "system", "message", "send", "stop"].map((id) => document.getElementById(id));
let history, systemPrompt, request;  // request: the AbortController of the message being answered

function reset() {
  if (request) request.abort();
  history = Object.fromEntries(sides.map((side) => [side, []]));
  systemPrompt = system.value;
  log.replaceChildren();
  hint.hidden = false;
  status.textContent = "";
  message.focus();
}

// Control characters, direction overrides and what has no width are shown by their code point, as in sanitize.py.
const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\u{e0001}\u{e0020}-\u{e007f}]/gu;
const visible = (text) => text.replace(/\r\n/g, "\n").replace(hidden,
  (c) => `[U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);

function element(parent, tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = visible(text);
  parent.append(made);
  return made;
}

function addExchange(text) {
  const whole = element(log, "article", "exchange");
  element(whole, "div", "words mine", text).dir = "auto";
  const columns = element(whole, "div", "replies");
  const replies = {};
  for (const side of sides) {
    const reply = element(columns, "section", `reply ${side}`);
    element(reply, "h2", "", names[side]);
    const words = element(reply, "div", "words");
    words.dir = "auto";
    replies[side] = { reply, words, text: "", sent: text, over: false };
  }
  scrollDown();
  return replies;
}

const distanceToEnd = () => document.documentElement.scrollHeight - window.innerHeight - window.scrollY;
const scrollDown = () => window.scrollTo(0, document.documentElement.scrollHeight);

function show(replies, line) {
  status.textContent = line.ahead ? `Waiting: ${line.ahead} ${line.ahead > 1 ? "messages are" : "message is"} answered before yours.` : "";
  if (line.ahead) return;
  const current = replies[line.side], reading = distanceToEnd() > 60; // stay where the reader has scrolled up to
  if ("piece" in line) { // "" where a token has no text yet
    current.text += line.piece;
    current.words.textContent = visible(current.text);
  } else if (line.error) {
    element(current.reply, "p", "note", line.error);
    current.over = true;
  } else {
    current.over = true;
    current.sent = line.message;
    if (!current.text) element(current.reply, "p", "nothing", "Empty reply.");
    if (!line.finished) element(current.reply, "p", "note", `Cut at ${line.tokens} tokens.`);
    if (line.shortened) element(current.reply, "p", "note", "The conversation is too long: its oldest part was left out.");
  }
  if (!reading) scrollDown();
}

async function read(response, replies) {
  const decoder = new TextDecoder(), reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) show(replies, JSON.parse(line));
  }
}

// Where too many wait already, ask again when the server says so, until it has room or Stop is pressed.
async function post(body, signal) {
  for (;;) {
    const response = await fetch("/ask", {
      method: "POST", headers: { "Content-Type": "application/json" }, signal, body: JSON.stringify(body),
    });
    const seconds = response.status === 503 && Number(response.headers.get("Retry-After"));
    if (!seconds) return response;
    status.textContent = `Many people are asking at the moment. Your message is sent again in ${seconds} s.`;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (1 + Math.random() / 2)));
    signal.throwIfAborted();
  }
}

async function ask(text) {
  if (system.value !== systemPrompt) reset();
  hint.hidden = true;
  status.textContent = "";
  busy(true);
  const replies = addExchange(text), own = (request = new AbortController());
  try {
    const response = await post({ message: text, system: systemPrompt, history }, own.signal);
    if (response.ok) await read(response, replies);
    else status.textContent = (await response.json().catch(() => ({}))).error || `The server answered ${response.status}.`;
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : "The server cannot be reached. Your conversation is kept on this page.";
  }
  if (own !== request) return; // a new conversation was started meanwhile
  for (const side of sides) {
    const { text: answer, sent, over, reply } = replies[side];
    if (answer) history[side].push({ role: "user", text: sent }, { role: "assistant", text: answer });
    if (!over) element(reply, "p", "note", answer ? "Stopped here." : "No answer.");
  }
  if (!sides.some((side) => replies[side].text || replies[side].over)) message.value = message.value || text;
  request = null;
  busy(false);
}

function busy(now) {
  send.hidden = now;
  stop.hidden = !now;
  if (!now) message.focus();
}

document.getElementById("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || request) return;
  message.value = "";
  ask(text);
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    document.getElementById("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && request) request.abort();
});
stop.addEventListener("click", () => request && request.abort());
document.getElementById("reset").addEventListener("click", () => { reset(); request = null; busy(false); });
document.getElementById("save").addEventListener("click", () => {
  const saved = { model: document.querySelector("h1").textContent, system: systemPrompt, conversations: history };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 2) + "\n"], { type: "application/json" }));
  link.download = "conversation.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
window.addEventListener("beforeunload", (event) => {
  if (sides.some((side) => history[side].length)) event.preventDefault();
});
reset();
