"use strict";
// The conversation lies here and goes along with every message. All text goes into the page as text, never as markup.

const sides = document.body.dataset.sides.split(" ");
const names = { tuned: "Tuned", untuned: sides.length > 1 ? "Untuned" : "Model" };
const [log, hint, status, system, message, send, stop] =
  ["log", "hint", "status", "system", "message", "send", "stop"].map((id) => document.getElementById(id));
let history, told, asking;

function reset() {
  if (asking) asking.abort();
  history = Object.fromEntries(sides.map((side) => [side, []]));
  told = system.value;
  log.replaceChildren();
  hint.hidden = false;
  status.textContent = "";
  message.focus();
}

// Control characters, and those that turn the direction of reading, are shown by their number.
const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const visible = (text) => text.replace(/\r\n/g, "\n").replace(hidden,
  (c) => `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);

function element(parent, tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = visible(text);
  parent.append(made);
  return made;
}

function exchange(text) {
  const whole = element(log, "article", "exchange");
  element(whole, "div", "words mine", text).dir = "auto";
  const replies = element(whole, "div", "replies");
  const places = {};
  for (const side of sides) {
    const reply = element(replies, "section", `reply ${side}`);
    element(reply, "h2", "", names[side]);
    const words = element(reply, "div", "words");
    words.dir = "auto";
    places[side] = { reply, words, text: "", sent: text, over: false };
  }
  down();
  return places;
}

const above = () => document.documentElement.scrollHeight - window.innerHeight - window.scrollY;
const down = () => window.scrollTo(0, document.documentElement.scrollHeight);

function take(places, line) {
  const place = places[line.side], reading = above() > 60; // who scrolled up to read stays there
  if (line.piece) {
    place.text += line.piece;
    place.words.textContent = visible(place.text);
  } else if (line.error) {
    element(place.reply, "p", "note", line.error);
    place.over = true;
  } else {
    place.over = true;
    place.sent = line.message;
    if (!place.text) element(place.reply, "p", "nothing", "The model said nothing.");
    if (!line.finished) element(place.reply, "p", "note", `Cut at ${line.tokens} tokens.`);
    if (line.shortened) element(place.reply, "p", "note", "The oldest part of the conversation no longer fitted.");
  }
  if (!reading) down();
}

async function read(response, places) {
  const decoder = new TextDecoder(), reader = response.body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) take(places, JSON.parse(line));
  }
}

async function say(text) {
  if (system.value !== told) reset();
  hint.hidden = true;
  status.textContent = "";
  busy(true);
  const places = exchange(text), mine = (asking = new AbortController());
  try {
    const response = await fetch("/say", {
      method: "POST", headers: { "Content-Type": "application/json" }, signal: mine.signal,
      body: JSON.stringify({ message: text, system: told, history }),
    });
    if (response.ok) await read(response, places);
    else status.textContent = (await response.json().catch(() => ({}))).error || `The server answered ${response.status}.`;
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : "The server cannot be reached. Your conversation is still here.";
  }
  if (mine !== asking) return; // a new conversation began meanwhile
  for (const side of sides) {
    const { text: said, sent, over, reply } = places[side];
    if (said) history[side].push({ role: "user", text: sent }, { role: "assistant", text: said });
    if (!over) element(reply, "p", "note", said ? "Stopped here." : "No answer.");
  }
  if (!sides.some((side) => places[side].text || places[side].over)) message.value = message.value || text;
  asking = null;
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
  if (!text || asking) return;
  message.value = "";
  say(text);
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    document.getElementById("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && asking) asking.abort();
});
stop.addEventListener("click", () => asking && asking.abort());
document.getElementById("reset").addEventListener("click", () => { reset(); asking = null; busy(false); });
document.getElementById("save").addEventListener("click", () => {
  const saved = { model: document.querySelector("h1").textContent, system: told, conversations: history };
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
