"use strict";
// The receiver's page: one snapshot a second from api/events, the last five minutes once from api/history.
const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const mbit = (bps) => (bps >= 1e6 ? `${(bps / 1e6).toFixed(bps >= 1e7 ? 0 : 1)} Mbit/s` : `${Math.round(bps / 1e3)} kbit/s`);
const bytes = (n) => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : n >= 2 ** 20 ? `${(n / 2 ** 20).toFixed(1)} MiB` : `${Math.round(n / 1024)} KiB`);
const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 2 : 1)} %`;
const ms = (n) => (n >= 10_000 ? `${(n / 1000).toFixed(1)} s` : `${Math.round(n)} ms`);

const SPECS = [
  { title: "Multicast rate by group", format: mbit, flows: true, series: [] },
  { title: "Loss", format: percent, least: 0.01, series: [
    { key: "loss_before_fec", label: "before FEC", color: "--repaired" },
    { key: "loss_after_fec", label: "after FEC", color: "--unicast" }] },
  { title: "Bytes served by source", format: mbit, total: true, series: [
    { key: "multicast_bps", label: "multicast", color: "--multicast" },
    { key: "repaired_bps", label: "repaired", color: "--repaired" },
    { key: "unicast_bps", label: "unicast", color: "--unicast" }] },
  { title: "Holds (90 %)", format: ms, total: true, series: [{ key: "hold_p90_ms", label: "held", color: "--other" }] },
  { title: "First packet to servable (90 %)", format: ms, series: [{ key: "completion_p90_ms", label: "completion", color: "--accent" }] },
  { title: "Delay to the live edge", format: ms, series: [{ key: "delay_ms", label: "delay", color: "--other" }] },
];
const KEPT = 300;
// Lines of one plot at most: more groups than this are added up in the last one.
const LINES = 6;
const COLORS = ["--accent", "--multicast", "--repaired", "--unicast", "--other", "--soft"];
const history = { totals: {}, channels: {}, flows: {} };
const plots = SPECS.map((spec) => Plots.figure($("plots"), spec));
let previous = null;

function push(map, key, value) {
  const list = (map[key] ||= []);
  list.push(value ?? null);
  if (list.length > KEPT) list.splice(0, list.length - KEPT);
}

function remember(s) {
  if (previous && s.at_ms > previous.at_ms) {
    const seconds = (s.at_ms - previous.at_ms) / 1000;
    for (const source of ["multicast", "repaired", "unicast"]) {
      const delta = s.totals.served[source] - previous.totals.served[source];
      push(history.totals, `${source}_bps`, (Math.max(0, delta) * 8) / seconds);
    }
    push(history.totals, "hold_p90_ms", s.totals.recent_hold_p90_ms);
  }
  previous = s;
  for (const channel of s.channels) {
    const map = (history.channels[channel.name] ||= {});
    push(map, "loss_before_fec", channel.loss_before_fec);
    push(map, "loss_after_fec", channel.loss_after_fec);
    push(map, "completion_p90_ms", channel.recent_completion_p90_ms);
    push(map, "delay_ms", channel.delay_ms);
  }
  const joined = new Map(s.channels.flatMap((c) => c.renditions.filter((r) => r.joined).map((r) => [`${c.name}/${r.id}`, r.rate_bps])));
  for (const name of new Set([...Object.keys(history.flows), ...joined.keys()])) {
    const map = (history.flows[name] ||= {});
    push(map, "rate_bps", joined.get(name));
    if (map.rate_bps.every((v) => v === null)) delete history.flows[name];
  }
}

function headline(s) {
  const live = s.channels.filter((c) => c.state === "live").length;
  const saved = s.totals.offload === null ? "" : `, ${percent(Math.max(0, s.totals.offload))} of bytes spared the uplink`;
  $("headline").textContent = `${s.totals.viewers} viewer${s.totals.viewers === 1 ? "" : "s"}, ${live} of ${s.channels.length} channel${s.channels.length === 1 ? "" : "s"} live, ${mbit(s.totals.rate_bps)} of multicast${saved}`;
  $("headline").title = "Spared: 1 − bytes fetched from origins ÷ bytes served to players";
}

function manifestPath(channel) {
  const leaf = new URL(channel.manifest_url).pathname.split("/").pop();
  return `live/${encodeURIComponent(channel.name)}/${leaf}${new URL(channel.manifest_url).search}`;
}

function channelItem(channel) {
  const item = make("li", {});
  const play = make("button", { type: "button", className: "main", textContent: "Play" });
  play.addEventListener("click", () => start(current(channel.name) || channel));
  item.append(make("span", {}), make("strong", {}), play, make("small", {}));
  item.dataset.name = channel.name;
  return item;
}

function current(name) {
  return previous?.channels.find((c) => c.name === name);
}

function showChannels(s) {
  const list = $("channels");
  const names = s.channels.map((c) => c.name).join("\n");
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...s.channels.map(channelItem));
    $("scope").replaceChildren(...s.channels.map((c) => make("option", { value: c.name, textContent: c.title || c.name })));
  }
  s.channels.forEach((channel, i) => {
    const [state, title, , detail] = list.children[i].children;
    state.className = `state ${channel.state}`;
    state.textContent = channel.state;
    title.textContent = channel.title || channel.name;
    const delay = channel.delay_ms === null ? "" : ` · delay ${ms(channel.delay_ms)}`;
    detail.textContent = `${channel.format.toUpperCase()} ${channel.live ? "live" : "on demand"} · ${channel.renditions.length} flows · ${mbit(channel.rate_bps)}${delay}${channel.reason ? ` · ${channel.reason}` : ""}`;
  });
  if (!s.channels.length) list.replaceChildren(make("li", { textContent: s.sessions.map((x) => x.error).filter(Boolean).join("; ") || "no channel yet: waiting for the session description" }));
}

// Of a playlist in one packet, 100 % would be one packet.
function lossOf(r) {
  if (!r.expected_symbols) return "–";
  return r.expected_symbols < 20 ? `${Math.round(r.loss_before_fec * r.expected_symbols)} of ${r.expected_symbols}` : percent(r.loss_before_fec);
}

function showFlows(s) {
  const rows = s.channels.flatMap((c) => c.renditions.map((r) => [
    `${c.name}/${r.id}`, r.flow, r.error || (r.joined ? (r.last_packet_ms === null ? "joined, nothing heard" : `joined on ${r.interface}`) : "not joined"),
    mbit(r.rate_bps), lossOf(r), r.expected_symbols ? percent(r.loss_after_fec) : "–",
    r.objects.multicast, r.objects.repaired, r.objects.unicast, r.objects.lost, r.completion_ms.count ? ms(r.completion_ms.p90) : "–"]));
  fill($("flows").tBodies[0], rows);
}

function showMemory(s) {
  const t = s.totals;
  const drops = Object.entries(t.drops).map(([why, n]) => `${why} ${n}`).join(", ") || "none";
  fill($("memory").tBodies[0], [
    ["Store", `${bytes(t.store_bytes)} of ${bytes(t.store_limit_bytes)}, ${bytes(t.pinned_bytes)} pinned for live`],
    ["Assembly", `${bytes(t.assembly_bytes)} of ${bytes(t.assembly_limit_bytes)}`],
    ["Disk", t.disk_limit_bytes ? `${bytes(t.disk_bytes)} of ${bytes(t.disk_limit_bytes)}` : "off"],
    ["Fetched from origins", Object.entries(t.origin).map(([why, n]) => `${why} ${bytes(n)}`).join(", ") || "nothing"],
    ["Objects by way", Object.entries(t.object_bytes).map(([way, n]) => `${way} ${bytes(n)}`).join(", ") || "none yet"],
    ["Dropped by the kernel", `${t.kernel_drops} packets`],
    ["Refused", drops],
  ]);
}

function fill(body, rows) {
  body.replaceChildren(...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", { textContent: cell })))));
}

// One line for each group of the channel, always in the same order and colour; what is too much for a plot is added up.
function groups(scope) {
  const all = Object.entries(history.flows).filter(([name]) => name.startsWith(`${scope}/`))
    .map(([name, map]) => [name.slice(scope.length + 1), map.rate_bps]).sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
  const shown = all.length > LINES ? all.slice(0, LINES - 1) : all;
  const rest = all.slice(shown.length);
  if (rest.length) {
    const length = Math.max(...rest.map(([, list]) => list.length));
    const at = (list, i) => list[list.length - length + i] ?? null;
    const sum = (values) => (values.every((v) => v === null) ? null : values.reduce((a, b) => a + b, 0));
    shown.push([`${rest.length} more`, Array.from({ length }, (_, i) => sum(rest.map(([, list]) => at(list, i))))]);
  }
  return { series: shown.map(([key], i) => ({ key, label: key, color: COLORS[i] })), values: Object.fromEntries(shown) };
}

function showPlots() {
  const scope = $("scope").value;
  const byGroup = groups(scope);
  const table = plots.map((plot) => {
    if (plot.spec.flows) plot.spec.series = byGroup.series;
    const values = plot.spec.flows ? byGroup.values : plot.spec.total ? history.totals : history.channels[scope] || {};
    Plots.draw(plot, values);
    return [plot.spec.title, Plots.describe(plot, values)];
  });
  fill($("values").tBodies[0], table);
}

// ---- player

let player = null;
let playing = null;
// What went wrong with the channel that is being watched; shown until its media plays.
let failure = "";

function fail(text) {
  failure = text;
  $("playing").textContent = text;
}

const scripts = {};

function script(path) {
  scripts[path] ||= new Promise((resolve, reject) => {
    const element = make("script", { src: path });
    element.onload = resolve;
    element.onerror = () => { delete scripts[path]; reject(new Error(path)); };
    document.head.append(element);
  });
  return scripts[path];
}

function cell(url, status) {
  const detail = /detail=(multicast|repaired|unicast)/.exec(status || "")?.[1];
  if (!detail) return;
  const strip = $("segments");
  strip.append(make("i", { className: `cell ${detail}`, title: `${url.split("/").pop()}: ${detail}` }));
  while (strip.children.length > 120) strip.firstChild.remove();
}

function stop() {
  const old = player;
  [player, failure] = [null, ""];
  // Either takes the whole player down, and calling both is an error in dash.js.
  if (old?.destroy) old.destroy();
  else old?.reset?.();
  $("video").removeAttribute("src");
  $("segments").replaceChildren();
}

async function start(channel) {
  stop();
  playing = channel.name;
  $("watch").hidden = false;
  $("playing").textContent = "loading the player…";
  $("scope").value = channel.name;
  const path = manifestPath(channel);
  const url = new URL(path, location.href).href;
  $("links").replaceChildren("Elsewhere: ", make("code", { textContent: `ffplay ${url}` }), " · ", make("code", { textContent: `vlc ${url}` }));
  const video = $("video");
  try {
    await script(channel.format === "dash" ? "assets/dash.js" : "assets/hls.js");
    if (playing !== channel.name) return; // another one was chosen meanwhile
    channel.format === "dash" ? startDash(video, url, channel.target_duration_ms) : startHls(video, url);
  } catch (e) {
    startNative(video, url, channel.format, e);
  }
  video.muted = true; // browsers let only silent players start by themselves; the controls turn it on
  video.play().catch(() => {});
  $("watch").scrollIntoView({ behavior: "smooth" });
}

function startHls(video, url) {
  if (!window.Hls?.isSupported()) throw new Error("no Media Source Extensions");
  const hls = new window.Hls({ liveSyncDurationCount: 3 });
  player = hls;
  // By itself it never catches up with the live edge again, which is what a channel with parts is for; others play at speed 1.
  hls.on(window.Hls.Events.LEVEL_LOADED, (_, { details }) => { hls.config.maxLiveSyncPlaybackRate = details.partTarget ? 1.1 : 1; });
  hls.on(window.Hls.Events.FRAG_LOADED, (_, data) => cell(data.frag.url, data.networkDetails?.getResponseHeader?.("Cache-Status")));
  hls.on(window.Hls.Events.ERROR, (_, data) => {
    if (!data.fatal) return;
    fail(`trying again: ${data.details}`);
    data.type === window.Hls.ErrorTypes.MEDIA_ERROR ? hls.recoverMediaError() : setTimeout(() => player === hls && hls.loadSource(url), 2000);
  });
  hls.loadSource(url);
  hls.attachMedia(video);
}

// `target`: longest segment, milliseconds.
function startDash(video, url, target) {
  const dash = window.dashjs.MediaPlayer().create();
  player = dash;
  dash.addResponseInterceptor((response) => {
    if (response.request?.customData?.request?.type === "MediaSegment") cell(response.url, response.headers?.["cache-status"]);
    return Promise.resolve(response);
  });
  // The time of the receiver, from its Date header, where the MPD names no source: by default dash.js asks a server of its maker's.
  const clock = { scheme: "urn:mpeg:dash:utc:http-head:2014", value: url };
  dash.updateSettings({ streaming: { utcSynchronization: { defaultTimingSource: clock } } });
  dash.on("error", (e) => fail(`player error: ${e.error?.message || e.error}`));
  // Packagers suggest a delay of one segment, with which a segment that comes a moment late is a stall. hls.js keeps three back, too.
  const least = (3 * target) / 1000;
  dash.on("manifestLoaded", ({ data }) => {
    // ffmpeg writes an empty one.
    const says = [data?.ServiceDescription ?? []].flat().some((description) => description.Latency);
    if (data?.type !== "dynamic" || says || data.suggestedPresentationDelay >= least) return;
    dash.updateSettings({ streaming: { delay: { liveDelay: least } } });
  });
  dash.initialize(video, url, true);
}

function startNative(video, url, format, why) {
  const can = format === "hls" && video.canPlayType("application/vnd.apple.mpegurl");
  if (can) {
    video.src = url;
    return;
  }
  fail(`This browser cannot play ${format.toUpperCase()} by itself, and this receiver was built without the player (${why.message}). Build it where npm is installed, or use ffplay or VLC with the URL below.`);
}

function watch(s) {
  const video = $("video");
  const channel = playing && s.channels.find((c) => c.name === playing);
  if (!channel || $("watch").hidden) return;
  const end = video.buffered.length ? video.buffered.end(video.buffered.length - 1) : 0;
  const quality = video.getVideoPlaybackQuality?.();
  $("overlay").textContent = `${video.videoWidth}×${video.videoHeight} · buffer ${Math.max(0, end - video.currentTime).toFixed(1)} s · ${quality ? `${quality.droppedVideoFrames} dropped frames` : ""}`;
  const flight = channel.renditions.reduce((n, r) => n + r.in_flight, 0);
  const waits = video.readyState < 3 && !video.ended;
  if (!waits) failure = "";
  if (failure) $("playing").textContent = failure;
  else if (waits) $("playing").textContent = `waiting for media: ${flight} segments on their way, ${mbit(channel.rate_bps)}, ${channel.state}${channel.reason ? ` (${channel.reason})` : ""}`;
  else $("playing").textContent = `${channel.title || channel.name} at ${video.currentTime.toFixed(1)} s`;
}

// ---- doctor

$("ask").addEventListener("click", async () => {
  $("findings").replaceChildren(make("li", { textContent: "looking, up to three seconds…" }));
  try {
    const report = await (await fetch("api/doctor")).json();
    const items = report.findings.map((f) => make("li", {},
      make("span", { className: `state ${f.severity}`, textContent: f.severity }), ` ${f.code} · ${f.subject}: ${f.message}`,
      ...(f.fix ? [make("pre", { textContent: f.fix })] : [])));
    for (const blind of report.blind) items.push(make("li", { textContent: `not looked at: ${blind}` }));
    $("findings").replaceChildren(...(items.length ? items : [make("li", { textContent: "no sender was named, so there is nothing to look for" })]));
  } catch (e) {
    $("findings").replaceChildren(make("li", { textContent: `the receiver did not answer: ${e.message}` }));
  }
});

// ---- life

function show(s) {
  remember(s);
  headline(s);
  showChannels(s);
  showFlows(s);
  showMemory(s);
  showPlots();
  watch(s);
}

async function main() {
  try {
    const past = await (await fetch("api/history")).json();
    Object.assign(history.totals, past.totals);
    Object.assign(history.channels, past.channels);
    Object.assign(history.flows, past.flows);
  } catch { /* plots then start empty */ }
  const events = new EventSource("api/events");
  events.onmessage = (e) => show(JSON.parse(e.data));
  events.onerror = () => { $("headline").textContent = "the receiver does not answer; trying again…"; };
  $("scope").addEventListener("change", showPlots);
  window.addEventListener("resize", showPlots);
  const asked = new URLSearchParams(location.search).get("play");
  if (asked) {
    const wait = setInterval(() => { const c = current(asked); if (c) { clearInterval(wait); start(c); } }, 200);
  }
}
main();
