"use strict";
// A list is asked for LOOKED items deep, so that one which left what is shown still has a place.
const SHOWN = 20, LOOKED = 200;
const KINDS = { thumb_up: "liked", play: "played", skip: "skipped", thumb_down: "thumbs down" };
const KEYS = { l: "thumb_up", p: "play", s: "skip", d: "thumb_down" };
const FORMS = { rank: "rank: what comes next", judge: "judge: what is liked", sum: "sum of both", demote: "demote what is disliked" };
const $ = (id) => document.getElementById(id);
const state = { models: [], kinds: [], events: [], before: [], known: new Map(), columns: [], last: null, token: "" };

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

async function asked(path, body) {
  const headers = state.token ? { authorization: `Bearer ${state.token}` } : {};
  const options = body ? { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) } : { headers };
  const answer = await fetch(path, options);
  if (answer.status === 401) { $("token").hidden = false; $("bearer").focus(); }
  const values = await answer.json();
  if (!answer.ok) throw new Error(values.error || `status ${answer.status}`);
  return values;
}

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").classList.toggle("bad", bad);
}

function titled(item) {
  const { title, name, ...rest } = state.known.get(item) || {};
  return { title: title || name || item, more: Object.values(rest).filter(Boolean).join(" · ") };
}

function titleOf(item) {
  const { title, more } = titled(item);
  return make("span", { class: "title" }, title, ...(more ? [make("small", {}, more)] : []));
}

function icon(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#${kind}`);
  svg.append(use);
  return svg;
}

// Buttons of the kinds of feedback; of an event, that of its kind is pressed.
function marks(item, mark, now = null) {
  const one = (kind) => make("button", {
    type: "button", "data-kind": kind, title: KINDS[kind], "aria-label": `${titled(item).title}: ${KINDS[kind]}`,
    "aria-pressed": now === null ? null : String(kind === now), onclick: () => mark(kind),
  }, icon(kind));
  return make("span", { class: "marks" }, ...state.kinds.map(one));
}

function change(events, last) {
  state.before.push(state.events);
  state.events = events;
  state.last = last;
  renderEvents();
  rank();
}

function mark(item, kind) {
  change([...state.events, { item, feedback: kind }], `${titled(item).title} ${KINDS[kind]}`);
}

function renderEvents() {
  const rows = state.events.map((event, at) => {
    const set = (kind) => change(state.events.map((e, n) => (n === at ? { ...e, feedback: kind } : e)), `${titled(event.item).title} now ${KINDS[kind]}`);
    const drop = make("button", {
      type: "button", title: "remove", "aria-label": `${titled(event.item).title}: remove from the history`,
      onclick: () => change(state.events.filter((_, n) => n !== at), `${titled(event.item).title} removed`),
    }, "×");
    const buttons = marks(event.item, set, event.feedback);
    buttons.append(drop);
    return make("li", { "data-item": event.item }, titleOf(event.item), buttons);
  });
  keepFocus($("events"), () => $("events").replaceChildren(...rows.reverse()));
  $("nothing").hidden = state.events.length > 0;
  $("undo").disabled = state.before.length === 0;
  $("clear").disabled = state.events.length === 0;
}

// What had the focus has it again, or what now stands in its place.
function keepFocus(list, render) {
  const held = document.activeElement, row = held && list.contains(held) ? held.closest(".rows > li") : null;
  const at = row ? [...list.children].indexOf(row) : -1, buttons = row ? [...row.querySelectorAll("button, summary")] : [];
  const nth = buttons.indexOf(held);
  render();
  if (at < 0) return;
  const there = list.children[Math.min(at, list.children.length - 1)];
  const target = there ? [...there.querySelectorAll("button, summary")] : [];
  (target[Math.min(Math.max(nth, 0), target.length - 1)] || $("text")).focus();
}

async function search() {
  const text = $("text").value;
  try {
    const found = await asked(`items?count=20&text=${encodeURIComponent(text)}&model=${encodeURIComponent(state.columns[0].model)}`);
    if (text !== $("text").value) return;
    for (const one of found.items) state.known.set(one.item, one.attributes);
    const rows = found.items.map(({ item }) => make("li", { "data-item": item }, titleOf(item), marks(item, (kind) => mark(item, kind))));
    $("found").replaceChildren(...(rows.length ? rows : [make("li", {}, "Nothing holds that text.")]));
  } catch (error) { say(error.message, true); }
}

function column(n) {
  const part = $("column").content.cloneNode(true).firstElementChild, get = (name) => part.querySelector(name);
  const one = { part, model: state.models[Math.min(n, state.models.length - 1)].model, form: "rank", beta: null, list: [], gone: [], n };
  get("legend").textContent = `List ${n + 1}`;
  get(".list").setAttribute("aria-label", `List ${n + 1}, best first`);
  get(".model").append(...state.models.map(({ model }) => make("option", { value: model, selected: model === one.model }, model)));
  get(".model").addEventListener("change", (event) => { one.model = event.target.value; one.beta = null; shape(one); one.list = []; state.last = null; rank([one]); });
  get(".form").addEventListener("change", (event) => { one.form = event.target.value; one.beta = null; shape(one); state.last = `form ${one.form}`; rank([one]); });
  get(".beta").addEventListener("input", (event) => {
    one.beta = weight(Number(event.target.value));
    get("output").textContent = one.beta.toFixed(2);
    state.last = `weight ${one.beta.toFixed(2)}`;
    clearTimeout(one.timer);
    one.timer = setTimeout(() => rank([one]), 60);
  });
  shape(one);
  return one;
}

// The slider goes from 0 over 1 in its middle to about 100.
const weight = (place) => (place === 0 ? 0 : 10 ** ((place - 50) / 25));
const placeOf = (beta) => (beta <= 0.01 ? 0 : Math.round(Math.min(100, Math.max(1, 50 + 25 * Math.log10(beta)))));

function shape(one) {
  const { forms } = state.models.find(({ model }) => model === one.model), names = Object.keys(forms);
  if (!names.includes(one.form)) one.form = "rank";
  const get = (name) => one.part.querySelector(name), has = "beta" in (forms[one.form] || {});
  get(".form").replaceChildren(...names.map((name) => make("option", { value: name, selected: name === one.form }, FORMS[name])));
  get(".of-form").hidden = names.length < 2;
  get(".of-beta").hidden = !has;
  if (has && one.beta === null) one.beta = forms[one.form].beta;
  if (has) { get(".beta").value = placeOf(one.beta); get("output").textContent = one.beta.toFixed(2); }
}

function listener(one) {
  const { forms } = state.models.find(({ model }) => model === one.model), body = { model: one.model, events: state.events, form: one.form };
  return "beta" in (forms[one.form] || {}) ? { ...body, beta: one.beta } : body;
}

// Ranks some lists anew, all by default.
async function rank(some = state.columns) {
  try {
    const told = (await Promise.all(some.map(rankOne))).filter(Boolean);
    if (told.length) say(state.last ? `${state.last}: ${told.map(({ text }) => text).join("; ")}` : "");
    await Promise.all(told.map(({ one, turn }) => reason(one, turn)));
  } catch (error) { say(error.message, true); }
}

// Of several answers that are under way, the last one asked for counts.
async function rankOne(one) {
  const turn = one.turn = (one.turn || 0) + 1;
  const found = await asked("recommend", { ...listener(one), k: LOOKED, exclude_seen: $("fresh").checked, describe: true });
  return turn === one.turn ? { one, turn, text: show(one, found) } : null;
}

async function reason(one, turn) {
  const items = [...one.list.slice(0, SHOWN), ...one.gone];
  if (!state.events.length || one.fallback || !items.length || turn !== one.turn) return;
  const found = await asked("explain", { ...listener(one), items });
  if (turn === one.turn) explain(one, found);
}

function show(one, answer) {
  const before = new Map(one.list.map((item, at) => [item, at])), list = one.part.querySelector(".list"), first = before.size === 0;
  for (const { item, attributes } of answer.recommendations) state.known.set(item, attributes);
  one.list = answer.recommendations.map(({ item }) => item);
  one.fallback = answer.fallback;
  one.moved = new Map();
  const rows = one.list.slice(0, SHOWN).map((item, at) => {
    const was = before.get(item), by = was === undefined ? null : was - at;
    if (!first) one.moved.set(item, by);
    const [sign, name] = first || by === 0 ? ["", ""] : by === null ? ["new", "new"] : by > 0 ? [`▲ ${by}`, "up"] : [`▼ ${-by}`, "down"];
    const spoken = sign && (by === null ? "new" : `${name} ${Math.abs(by)} from ${was + 1}`);
    const place = make("span", { class: "place" }, String(at + 1), make("small", { class: name, title: spoken }, sign));
    return make("li", { "data-item": item }, place, titleOf(item), marks(item, (kind) => mark(item, kind)));
  });
  const tops = new Map([...list.children].map((row) => [row.dataset.item, row.getBoundingClientRect().top]));
  keepFocus(list, () => list.replaceChildren(...rows));
  slide(rows, tops);
  const why = { station: "Nothing of this history is known to the model: what is heard most at the station.", popularity: "Nothing of this history is known to the model: what is heard most." }[answer.fallback];
  const note = one.part.querySelector(".note");
  note.hidden = !why;
  note.textContent = state.events.length ? why || "" : "No history yet: what is heard most.";
  const gone = [...before].filter(([item, at]) => at < SHOWN && !one.list.slice(0, SHOWN).includes(item));
  const left = one.part.querySelector(".gone"), heard = new Set(state.events.map(({ item }) => item));
  left.hidden = gone.length === 0;
  one.gone = gone.map(([item]) => item);
  const told = gone.slice(0, 6).map(([item, at]) => {
    const now = one.list.indexOf(item);
    return `${titled(item).title} (${at + 1} → ${now >= 0 ? now + 1 : heard.has(item) ? "heard" : `beyond ${LOOKED}`})`;
  });
  left.textContent = `Left the list: ${told.join(", ")}${gone.length > 6 ? ` and ${gone.length - 6} more` : ""}`;
  const moves = [...one.moved.values()], up = moves.filter((by) => by > 0).length, down = moves.filter((by) => by < 0).length, fresh = moves.filter((by) => by === null).length;
  return `${state.columns.length > 1 ? `list ${one.n + 1}: ` : ""}${up} up, ${down} down, ${fresh} new`;
}

// Rows go from where they were to where they are.
function slide(rows, tops) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of rows) {
    const was = tops.get(row.dataset.item);
    if (was === undefined) continue;
    const by = was - row.getBoundingClientRect().top;
    row.style.transition = "none";
    row.style.transform = `translateY(${by}px)`;
  }
  requestAnimationFrame(() => requestAnimationFrame(() => { for (const row of rows) { row.style.transition = ""; row.style.transform = ""; } }));
}

const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;

// What an event does to all alike moves nothing: changes are told less their mean over what is and what was in the list.
function explain(one, { events, items }) {
  if (!events.length) return;
  const mean = events.map((_, t) => items.reduce((sum, { changes }) => sum + changes[t], 0) / items.length);
  const spoken = ({ item, feedback }) => `${titled(item).title} ${KINDS[feedback] || feedback}`;
  for (const { item, changes } of items) {
    const row = [...one.part.querySelector(".list").children].find((each) => each.dataset.item === item);
    if (!row) continue;
    const less = changes.map((change, t) => change - mean[t]), most = Math.max(...less.map(Math.abs), 1e-9), by = one.moved.get(item);
    const weigh = (t) => (by > 0 || by === null ? less[t] : by < 0 ? -less[t] : Math.abs(less[t]));
    const order = less.map((_, t) => t).sort((a, b) => weigh(b) - weigh(a)), at = order[0];
    const lines = [...order].sort((a, b) => Math.abs(less[b]) - Math.abs(less[a])).slice(0, 8).map((t) => {
      const share = 50 * Math.abs(less[t]) / most, name = less[t] < 0 ? "down" : "up";
      const bar = make("i", { class: name });
      bar.style.width = `${share}%`;
      bar.style.left = less[t] < 0 ? `${50 - share}%` : "50%";
      return make("li", {}, make("span", { class: "title" }, spoken(events[t])), make("span", { class: "line", "aria-hidden": "true" }, bar), make("span", { class: `number ${name}` }, signed(less[t])));
    });
    const because = make("summary", {}, make("span", { class: less[at] < 0 ? "down" : "up" }, signed(less[at])), ` by ${spoken(events[at])}`);
    row.append(make("details", { class: "why" }, because, make("ul", { "aria-label": `What moved ${titled(item).title}` }, ...lines)));
  }
}

function columns() {
  const count = $("two").checked ? 2 : 1;
  while (state.columns.length < count) state.columns.push(column(state.columns.length));
  state.columns.length = count;
  $("columns").replaceChildren(...state.columns.map(({ part }) => part));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input[type=search], input[type=password], select, input[type=range]");
  const row = event.target.closest(".rows > li"), key = event.key.toLowerCase();
  if (key === "/" && !typing) { event.preventDefault(); $("text").focus(); }
  else if (key === "z" && !typing) $("undo").click();
  else if (key === "arrowdown" && event.target === $("text")) { event.preventDefault(); $("found").querySelector("button")?.focus(); }
  else if (row && !typing && (key === "arrowdown" || key === "arrowup")) {
    const next = key === "arrowdown" ? row.nextElementSibling : row.previousElementSibling;
    const nth = [...row.querySelectorAll("button, summary")].indexOf(event.target), there = next ? [...next.querySelectorAll("button, summary")] : [];
    event.preventDefault();
    if (there.length) there[Math.min(Math.max(nth, 0), there.length - 1)].focus();
    else if (row.parentElement === $("found") && key === "arrowup") $("text").focus();
  } else if (row && !typing && KEYS[key]) row.querySelector(`[data-kind="${KEYS[key]}"]`)?.click();
}

async function begin() {
  try {
    state.models = (await asked("models")).models;
  } catch (error) { say(error.message, true); return; }
  $("token").hidden = true;
  const kinds = new Set(state.models.flatMap(({ feedback }) => feedback));
  state.kinds = Object.keys(KINDS).filter((kind) => kinds.has(kind));
  $("two").checked = state.models.length > 1 && !matchMedia("(max-width: 48rem)").matches;
  columns();
  renderEvents();
  await Promise.all([search(), rank()]);
}

$("text").addEventListener("input", () => { clearTimeout(state.timer); state.timer = setTimeout(search, 80); });
$("fresh").addEventListener("change", () => { state.last = null; rank(); });
$("two").addEventListener("change", () => { state.last = null; columns(); rank(); });
$("undo").addEventListener("click", () => {
  if (!state.before.length) return;
  state.events = state.before.pop();
  state.last = "Taken back";
  renderEvents();
  rank();
});
$("clear").addEventListener("click", () => change([], "History cleared"));
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
$("token").addEventListener("submit", (event) => { event.preventDefault(); state.token = $("bearer").value; begin(); });
document.addEventListener("keydown", keys);
begin();
