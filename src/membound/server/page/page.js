// The page: frames from the server in, pictures out; and a chat.
"use strict";

const POINTS = 400; // steps on the roofline
const LANES_S = 30; // seconds of the lane chart
const SLO_S = 60; // seconds of requests that count against the SLO
const at = (id) => document.getElementById(id);
const show = (id, text) => { at(id).textContent = text; };

const RATE_S = 2; // seconds of which tokens/s are the mean
const ROOFLINE_MS = 1000; // from one drawing to the next: it takes long, perhaps of the cores that serve

const state = {
  hello: null, points: [], requests: new Map(), shares: [], tokens: [], now: 0, heard: 0,
  stale: true, undrawn: true, drawn: -Infinity,
};

// ---- numbers as people read them ----

const percent = (x) => (x == null ? "–" : `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`);
const milliseconds = (s) =>
  s == null ? "–" : s < 1 ? `${(s * 1e3).toPrecision(3)} ms` : `${s.toPrecision(3)} s`;
function unit(x, name) {
  for (const [scale, letter] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"]]) {
    if (x >= scale) return `${(x / scale).toPrecision(3)} ${letter}${name}`;
  }
  return `${Math.round(x)} ${name}`;
}
function quantile(sorted, q) {
  if (!sorted.length) return null;
  const place = q * (sorted.length - 1);
  const low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}

// ---- frames ----

function listen() {
  const source = new EventSource("page/events");
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = () => {
    at("state").classList.remove("live");
    show("state", "offline");
  };
}

function take(frame) {
  if (frame.hello) {
    state.hello = frame.hello;
    state.points = [];
    state.requests.clear();
    state.shares = [];
    state.tokens = [];
    introduce(frame.hello);
  }
  const last = state.points.length ? state.points[state.points.length - 1][0] : -1;
  state.points.push(...frame.points.filter((point) => point[0] > last));
  state.points.splice(0, Math.max(0, state.points.length - POINTS));
  for (const request of frame.requests) state.requests.set(request[0], request);
  for (const [name, request] of state.requests) {
    if (request[5] != null && request[5] < frame.now - SLO_S - 5) state.requests.delete(name);
  }
  state.shares.push([frame.now, frame.share]);
  state.tokens.push([frame.now, frame.tokens]);
  while (state.shares[0][0] < frame.now - SLO_S) state.shares.shift();
  while (state.tokens.length > 2 && state.tokens[1][0] < frame.now - RATE_S) state.tokens.shift();
  state.now = frame.now;
  state.heard = performance.now();
  state.stale = state.undrawn = true;
  at("state").classList.add("live");
  show("state", "live");
  tell(frame);
}

function introduce(hello) {
  document.title = `${hello.model} · membound`;
  show("model", hello.model);
  show("about", `${hello.about} · ${unit(hello.bandwidth, "B/s")}, ${unit(hello.flops, "FLOP/s")} · context ${hello.context.toLocaleString("en")}`);
  show("base", `${new URL("v1", location)}`);
}

function tell(frame) {
  show("share", percent(frame.share));
  at("share-bar").style.width = `${100 * Math.min(1, frame.share ?? 0)}%`;
  if (frame.share != null) {
    show("share-note", `${unit(frame.bandwidth_used, "B/s")} of ${unit(state.hello.bandwidth, "B/s")} ` +
      `and ${unit(frame.flops_used, "FLOP/s")} of ${unit(state.hello.flops, "FLOP/s")}, over the last 5 s`);
  } else if (state.points.length) {
    show("share-note", "Idle. The latest steps stand on the roofline.");
  }
  const [[then, before], [, after]] = [state.tokens[0], state.tokens.at(-1)];
  show("tokens", frame.now > then ? Math.round((after - before) / (frame.now - then)).toLocaleString("en") : "–");
  show("running", frame.running);
  show("waiting", frame.waiting);
  show("cache", percent(frame.cache));
  at("cache-bar").style.width = `${100 * frame.cache}%`;
  show("hits", percent(frame.hits));
  at("hits-bar").style.width = `${100 * (frame.hits ?? 0)}%`;
  show("step", frame.step_s == null ? "no step lately" : `${milliseconds(frame.step_s)} per step`);
  show("preemptions", frame.preemptions);
  show("lag", frame.lag > 0.02 ? `, ${milliseconds(frame.lag)} behind` : "");
}

// ---- TTFT, TPOT and goodput against the SLO ----

function limit(id) {
  const input = at(id);
  const value = Number(input.value.replace(",", "."));
  input.classList.toggle("wrong", !(value > 0));
  return value > 0 ? value / 1e3 : Infinity;
}

function judge() {
  const most = { ttft: limit("slo-ttft"), tpot: limit("slo-tpot") };
  const ttfts = [], tpots = [];
  let good = 0, all = 0, earliest = Infinity;
  for (const [, sent, , first, last, ended, , output, reason] of state.requests.values()) {
    if (ended == null || ended < state.now - SLO_S || reason === "abort") continue;
    if (first == null && reason === "length") continue; // it asked for no token
    all += 1;
    earliest = Math.min(earliest, sent);
    if (reason === "error" || first == null) continue;
    const ttft = first - sent;
    const tpot = output > 1 ? (last - first) / (output - 1) : null;
    ttfts.push(ttft);
    if (tpot != null) tpots.push(tpot);
    if (ttft <= most.ttft && (tpot == null || tpot <= most.tpot)) good += 1;
  }
  const span = Math.min(SLO_S, Math.max(1, state.now - earliest));
  for (const [name, values] of [["ttft", ttfts], ["tpot", tpots]]) {
    values.sort((a, b) => a - b);
    for (const q of [50, 99]) {
      const value = quantile(values, q / 100);
      const cell = at(`${name}-${q}`);
      cell.textContent = milliseconds(value);
      cell.className = value == null ? "" : value <= most[name] ? "good" : "bad";
    }
  }
  show("goodput", all ? (good / span).toPrecision(2) : "–");
  show("attained", all ? percent(good / all) : "–");
}

// ---- the roofline ----

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function drawRoofline() {
  if (!window.Plotly || !state.hello) return;
  const { bandwidth, flops } = state.hello;
  const ridge = flops / bandwidth;
  const xs = state.points.map((p) => p[1]), ys = state.points.map((p) => p[2]);
  const low = Math.min(0.5, ...xs) / 1.5, high = Math.max(ridge * 8, ...xs) * 1.5;
  const ink = colour("ink"), soft = colour("soft"), line = colour("line");
  const roof = {
    x: [low, ridge, high], y: [low * bandwidth, flops, flops], mode: "lines", hoverinfo: "skip",
    line: { color: ink, width: 2.5 }, name: "roof",
  };
  const steps = {
    x: xs, y: ys, mode: "markers", type: "scatter", name: "steps",
    text: state.points.map((p) => `step ${p[0]}: ${p[4]} tokens, ${milliseconds(p[6])}, ${percent(p[5])} of the limit`),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      size: 7, opacity: 0.65, color: state.points.map((p) => p[3]), cmin: 0, cmax: 1,
      colorscale: [[0, colour("decode")], [1, colour("prefill")]], line: { width: 0 },
    },
  };
  const middle = Math.sqrt(low * ridge);
  const least = Math.min(low * bandwidth, ...ys) / 2;
  const note = (x, y, text, anchors) => ({
    x: Math.log10(x), y: Math.log10(y), text, showarrow: false, font: { size: 11, color: soft }, ...anchors,
  });
  const axis = (title) => ({
    type: "log", title: { text: title, font: { size: 12 } }, gridcolor: line, linecolor: line, zeroline: false,
    exponentformat: "SI extended", dtick: 1, tickfont: { size: 11 },
  });
  const layout = {
    margin: { l: 58, r: 12, t: 6, b: 42 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: { color: soft, family: "system-ui, sans-serif" },
    xaxis: { ...axis("FLOP per byte"), range: [Math.log10(low), Math.log10(high)] },
    yaxis: { ...axis("FLOP/s"), range: [Math.log10(least), Math.log10(flops * 3.5)] }, uirevision: "kept",
    shapes: [{
      type: "line", x0: ridge, x1: ridge, y0: least, y1: flops, line: { color: soft, width: 1, dash: "dot" },
    }],
    annotations: [
      note(ridge, least, `ridge ${ridge.toPrecision(3)}`, { xanchor: "left", yanchor: "bottom", xshift: 3 }),
      note(high, flops, unit(flops, "FLOP/s"), { xanchor: "right", yanchor: "bottom", yshift: 2 }),
      note(middle, middle * bandwidth, unit(bandwidth, "B/s"), { xanchor: "right", yanchor: "bottom", xshift: -4 }),
    ],
  };
  Plotly.react("roofline", [roof, steps], layout, { displayModeBar: false, responsive: true });
}

// ---- drawings by hand ----

function penOf(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function drawHistory() {
  const { pen, width, height } = penOf(at("history"));
  const x = (moment) => (1 - (state.now - moment) / SLO_S) * width;
  const y = (share) => height - 1 - Math.min(1, share) * (height - 2);
  pen.fillStyle = colour("line");
  pen.fillRect(0, height - 1, width, 1);
  for (let place = 0; place < width; place += 6) pen.fillRect(place, y(1), 3, 1);
  pen.fillStyle = colour("soft");
  pen.font = "10px system-ui, sans-serif";
  pen.fillText("100 %", 0, y(1) + 11);
  pen.fillStyle = colour("decode");
  state.shares.forEach(([moment, share], place) => {
    if (share == null) return;
    const until = state.shares[place + 1]?.[0] ?? state.now;
    pen.globalAlpha = 0.35;
    pen.fillRect(x(moment), y(share), x(until) - x(moment) + 0.3, height - 1 - y(share));
    pen.globalAlpha = 1;
    pen.fillRect(x(moment), y(share) - 0.75, x(until) - x(moment) + 0.3, 1.5);
  });
}

function drawLanes() {
  const { pen, width, height } = penOf(at("lanes"));
  const now = state.now + (at("state").classList.contains("live") ? (performance.now() - state.heard) / 1e3 : 0);
  const from = now - LANES_S;
  const floor = height - 18;
  const x = (moment) => ((Math.max(moment, from) - from) / LANES_S) * width;
  const seen = [...state.requests.values()].filter((r) => r[5] == null || r[5] > from);
  seen.sort((a, b) => a[1] - b[1]);
  const rows = []; // of each row, when it is free again
  const lanes = seen.map((request) => {
    const end = request[5] ?? Infinity;
    let row = rows.findIndex((free) => free <= request[1]);
    if (row < 0) row = rows.push(0) - 1;
    rows[row] = end;
    return [request, row];
  });
  pen.fillStyle = colour("line");
  for (let back = 10; back < LANES_S; back += 10) pen.fillRect(x(now - back), 0, 1, floor);
  const tall = Math.min(16, floor / Math.max(rows.length, 6));
  const bar = (begin, end, row, name) => {
    if (begin == null || end <= from) return;
    pen.fillStyle = colour(name);
    pen.fillRect(x(begin), row * tall + 1, Math.max(1, x(end) - x(begin)), Math.max(1, tall - 2));
  };
  for (const [[, sent, admitted, first, , ended, , , reason], row] of lanes) {
    const end = ended ?? now;
    bar(sent, admitted ?? end, row, "queued");
    bar(admitted, first ?? end, row, "prefill");
    bar(first, end, row, "decode");
    if (reason === "abort" || reason === "error") {
      pen.fillStyle = colour("bad");
      pen.fillRect(x(end) - 2, row * tall + 1, 2, Math.max(1, tall - 2));
    }
  }
  pen.fillStyle = colour("soft");
  pen.font = "11px system-ui, sans-serif";
  for (let back = 0; back <= LANES_S; back += 10) {
    const place = x(now - back);
    pen.textAlign = back === 0 ? "right" : back === LANES_S ? "left" : "center";
    pen.fillText(back ? `−${back} s` : "now", place, height - 4);
  }
}

function draw() {
  if (document.hidden) return;
  if (state.stale) {
    state.stale = false;
    judge();
    drawHistory();
  }
  if (state.undrawn && performance.now() > state.drawn + ROOFLINE_MS) {
    state.undrawn = false;
    state.drawn = performance.now();
    drawRoofline();
  }
  drawLanes();
}

// ---- the chat ----

const talk = []; // messages so far
let running = null; // what stops the answer

function add(kind, text) {
  const element = document.createElement("div");
  element.className = `message ${kind}`;
  element.textContent = text;
  at("messages").append(element);
  element.scrollIntoView({ block: "nearest" });
  return element;
}

function number(id, fallback) {
  const value = Number(at(id).value.replace(",", "."));
  at(id).classList.toggle("wrong", !Number.isFinite(value));
  return Number.isFinite(value) ? value : fallback;
}

async function ask(text) {
  const chat = state.hello?.chat ?? true;
  talk.push({ role: "user", content: text });
  add("user", text);
  const shown = add("assistant", "");
  running = new AbortController();
  show("send", "Stop");
  const body = { stream: true, stream_options: { include_usage: true }, temperature: number("temperature", 0.7) };
  body.max_tokens = Math.max(1, Math.round(number("most", 256)));
  if (chat) body.messages = talk; else body.prompt = text;
  const sent = performance.now();
  let first = null, last = null, usage = null, said = "";
  try {
    const headers = { "Content-Type": "application/json" };
    if (at("key").value) headers.Authorization = `Bearer ${at("key").value}`;
    const address = chat ? "v1/chat/completions" : "v1/completions";
    const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(body), signal: running.signal });
    if (answer.status === 401) at("key-label").hidden = false;
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const event of eventsOf(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      const piece = choice?.delta?.content ?? choice?.text ?? "";
      if (piece) {
        last = performance.now();
        first ??= last;
        said += piece;
        shown.textContent = said.trimStart();
        at("messages").scrollTop = at("messages").scrollHeight;
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      talk.pop();
      add("wrong", error.message);
    }
  }
  if (said) talk.push({ role: "assistant", content: said }); else shown.remove();
  if (first != null) {
    const told = document.createElement("div");
    told.className = "told";
    const count = usage?.completion_tokens;
    told.textContent = `TTFT ${milliseconds((first - sent) / 1e3)}` +
      (count > 1 ? ` · TPOT ${milliseconds((last - first) / 1e3 / (count - 1))} · ${count} tokens` : "");
    at("messages").append(told);
    told.scrollIntoView({ block: "nearest" });
  }
  running = null;
  show("send", "Send");
}

async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// ---- put together ----

function dress(theme) {
  document.documentElement.dataset.theme = theme;
  state.stale = state.undrawn = true;
  state.drawn = -Infinity;
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
dress(localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) dress(dark.matches ? "dark" : "light"); });
at("theme").addEventListener("click", () => {
  const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", other);
  dress(other);
});
for (const id of ["slo-ttft", "slo-tpot"]) {
  at(id).value = localStorage.getItem(id) ?? at(id).value;
  at(id).addEventListener("input", () => { localStorage.setItem(id, at(id).value); judge(); });
}
at("slo").addEventListener("submit", (event) => event.preventDefault());
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) { running.abort(); return; }
  const text = at("prompt").value.trim();
  if (text) { at("prompt").value = ""; ask(text); }
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); if (!running) at("ask").requestSubmit(); }
});
at("clear").addEventListener("click", () => { talk.length = 0; at("messages").replaceChildren(); });
setInterval(draw, 200);
listen();
