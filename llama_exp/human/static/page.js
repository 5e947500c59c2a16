// Without this script every form still works. With it: saving without reloading, a retry where the server does
// not answer, keys, and the time a page was looked at.
"use strict";

const form = document.getElementById("rating-form");
const status = document.getElementById("status");
const comment = document.getElementById("comment");
const opened = performance.now();
const TOO_SOON = 350; // ms: the second half of a double click belongs to the page before
const RETRY = 2000;
let counted = opened;
let leaving = false;
let draftTimer = null;
let requests = 0;

function requestBody(extra) {
  const data = new URLSearchParams(new FormData(form));
  data.set("seconds", document.hidden ? "0" : ((performance.now() - counted) / 1000).toFixed(1));
  data.set("script", "1");
  data.set("request", `${performance.timeOrigin}-${requests += 1}`); // sent again, it is the same request
  for (const [name, value] of Object.entries(extra)) data.set(name, value);
  counted = performance.now();
  return data;
}

function showStatus(text, lost = false) {
  status.textContent = text;
  status.classList.toggle("lost", lost);
}

// Requests go out one after the other, so that an older draft never lands on a newer rating.
let lastRequest = Promise.resolve();
function send(data) {
  lastRequest = lastRequest.then(() => attempt(data));
  return lastRequest;
}

async function attempt(data) {
  for (;;) {
    try {
      const answer = await fetch(form.action, {method: "POST", body: data, signal: AbortSignal.timeout(20000)});
      if (answer.ok) return await answer.json();
      if (answer.status < 500) {
        const message = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main p");
        showStatus("Not saved. " + (message ? message.textContent : ""), true);
        return null;
      }
    } catch (error) { /* no answer: the server or the network is away */ }
    showStatus("Not saved yet: the server does not answer. Leave this page open; it tries again by itself.", true);
    await new Promise((resolve) => setTimeout(resolve, RETRY));
  }
}

async function rate(extra) {
  if (leaving || performance.now() - opened < TOO_SOON) return;
  leaving = true;
  clearTimeout(draftTimer);
  draftTimer = null;
  showStatus("Saving …");
  const answer = await send(requestBody(extra));
  if (answer) location.assign(answer.next);
  else leaving = false;
}

async function saveDraft() {
  clearTimeout(draftTimer);
  draftTimer = null;
  if (leaving) return;
  if (await send(requestBody({draft: "1"})) && !leaving && !draftTimer) showStatus("Saved.");
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  rate(event.submitter && event.submitter.name ? {verdict: event.submitter.value} : {});
});
comment.addEventListener("input", () => {
  clearTimeout(draftTimer);
  draftTimer = setTimeout(saveDraft, 400);
});
form.addEventListener("change", (event) => { if (event.target.type === "radio") saveDraft(); });
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) { counted = performance.now(); return; }
  if (draftTimer && !leaving) { // the page may never come back: hand the browser what is not saved yet
    clearTimeout(draftTimer);
    draftTimer = null;
    fetch(form.action, {method: "POST", body: requestBody({draft: "1"}), keepalive: true}).catch(() => {});
  }
});

// Keys. They can be turned off, for those whose voice or switch control types letters by accident.
const toggle = document.getElementById("shortcuts");
let keys = true;
function showToggle() {
  toggle.setAttribute("aria-pressed", String(keys));
  toggle.textContent = keys ? "Keys are on" : "Keys are off";
  document.body.classList.toggle("with-keys", keys);
}
try { keys = localStorage.getItem("keys") !== "off"; } catch (error) { /* storage is blocked */ }
document.querySelector(".keys").hidden = false;
toggle.addEventListener("click", () => {
  keys = !keys;
  try { localStorage.setItem("keys", keys ? "on" : "off"); } catch (error) { /* lasts for this page only */ }
  showToggle();
});
showToggle();

const links = {b: "back", n: "next"};
function chooseOnScale(value) {
  const sets = [...form.querySelectorAll("fieldset.scale")];
  const set = sets.find((one) => one.contains(document.activeElement)) || sets.find((one) => !one.querySelector(":checked"));
  const choice = set && set.querySelector(`input[value="${value}"]`);
  if (!choice) return false;
  choice.click();
  const after = sets[sets.indexOf(set) + 1];
  (after ? after.querySelector(":checked") || after.querySelector("input") : form.querySelector("button.strong")).focus();
  return true;
}
document.addEventListener("keydown", (event) => {
  if (event.target === comment && event.key === "Escape") { comment.blur(); return; }
  if (!keys || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target === comment) return;
  const button = form.querySelector(`button[data-key="${CSS.escape(event.key)}"]`);
  const link = document.getElementById(links[event.key] || "");
  if (button) rate({verdict: button.value});
  else if (link) link.click();
  else if (event.key === "c") comment.focus();
  else if (!(/^[1-5]$/.test(event.key) && chooseOnScale(event.key))) return;
  event.preventDefault();
});
setTimeout(() => { document.documentElement.dataset.ready = "yes"; }, TOO_SOON + 5); // what tests wait for
