"use strict";
// What a report can do beside its tables: the map of pages through time, the lanes of threads, a
// search in the events. The pages are data of `softsgx.report.pagemap`, the lanes of `timeline`.
const begun = performance.now();
document.body.classList.add("scripted");
const $ = (at, what) => at.querySelector(what);
const $$ = (at, what) => [...at.querySelectorAll(what)];
const hex = (n) => "0x" + n.toString(16);
const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const esc = (s) => String(s).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

// Values over ranges, as softsgx.report.intervals.
class Intervals {
  constructor() { this.all = []; }
  put(first, last, value) {
    const all = this.all;
    let i = 0, j = all.length;
    while (i < j) { const m = (i + j) >> 1; if (all[m][1] <= first) i = m + 1; else j = m; }
    let k = i;
    while (k < all.length && all[k][0] < last) k++;
    const kept = [];
    if (i < k && all[i][0] < first) kept.push([all[i][0], first, all[i][2]]);
    if (value !== null) kept.push([first, last, value]);
    if (i < k && all[k - 1][1] > last) kept.push([last, all[k - 1][1], all[k - 1][2]]);
    all.splice(i, k - i, ...kept);
  }
  runs(first, last) {
    const found = [];
    for (const [a, b, value] of this.all) {
      if (b <= first) continue;
      if (a >= last) break;
      found.push([Math.max(a, first), Math.min(b, last), value]);
    }
    return found;
  }
}

// -- events as text ------------------------------------------------------------------------

class Events {
  constructor(section) { this.chunks = $$(section, "details.chunk"); this.split = new Map(); }
  lines(c) {
    if (!this.split.has(c)) {
      const text = this.chunks[c] ? $(this.chunks[c], "pre").textContent : "";
      this.split.set(c, text.split(/\n(?=\d)/).filter(Boolean).map((l) => l.replace(/\n+$/, "")));
    }
    return this.split.get(c);
  }
  text(i) {
    const start = i + " ";
    return this.lines(Math.floor(i / 1000)).find((l) => l.startsWith(start)) || "";
  }
  find(test, most) {
    const found = [];
    let count = 0;
    for (let c = 0; c < this.chunks.length; c++)
      for (const line of this.lines(c))
        if (test(line) && ++count <= most) found.push(line);
    return [found, count];
  }
  show(i) {
    const chunk = this.chunks[Math.floor(i / 1000)];
    if (!chunk) return;
    chunk.open = true;
    const node = $(chunk, "pre").firstChild, at = node.data.search(new RegExp(`(^|\\n)${i} `));
    if (at < 0) return;
    const end = node.data.indexOf("\n", at + 1), range = document.createRange();
    range.setStart(node, at ? at + 1 : 0);
    range.setEnd(node, end < 0 ? node.data.length : end);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    const box = range.getBoundingClientRect();
    scrollBy(0, box.top - innerHeight / 3);
  }
}

// -- the map of pages ----------------------------------------------------------------------

class PageMap {
  constructor(run, data) {
    this.run = run; this.data = data;
    const rows = [...data.changes.map((c) => [c[0], 0, c]), ...data.mapped.map((m) => [m[0], 1, m])];
    this.rows = rows.sort((a, b) => a[0] - b[0]);
    this.moments = [...new Set(this.rows.map((r) => r[0]))];
    this.range = $(run.section, ".when");
    if (!this.range) return;
    this.range.max = this.moments.length;
    this.reset();
    this.range.addEventListener("input", () => this.go(+this.range.value, true));
    const step = { first: () => 0, back: (n) => n - 1, on: (n) => n + 1, last: () => this.moments.length };
    for (const b of $$(run.section, "[data-do]"))
      if (step[b.dataset.do]) b.addEventListener("click", () => this.go(step[b.dataset.do](this.at), true));
    for (const box of $$(run.section, "div.map"))
      box.addEventListener("click", (e) => e.target.dataset.p !== undefined && this.pick(box, e.target));
    this.end = this.moments.filter((i) => i <= data.last).length;
    this.go(this.end, false);
    new ResizeObserver(() => this.width !== this.run.section.clientWidth && this.draw()).observe(run.section);
  }
  reset() {
    this.done = 0;
    this.pages = new Map(); this.vmas = new Map();
    for (const e of this.data.enclaves) { this.pages.set(e.number, new Intervals()); this.vmas.set(e.number, new Map()); }
  }
  // The state after the first n moments.
  go(n, tell) {
    n = Math.min(Math.max(n, 0), this.moments.length);
    const last = n ? this.moments[n - 1] : -1;
    if (n < this.at) this.reset();
    for (; this.done < this.rows.length && this.rows[this.done][0] <= last; this.done++) this.apply(this.rows[this.done]);
    this.at = n;
    this.range.value = n;
    const text = n ? this.run.events.text(last) : "before the first change";
    this.range.setAttribute("aria-valuetext", text);
    $(this.run.section, ".when-told").textContent = `${n} of ${this.moments.length}: ${text}`;
    this.draw();
    this.table();
    if (tell && n) this.run.select(last, this);
  }
  // The state at the time of an event.
  upTo(i) {
    let n = 0;
    while (n < this.moments.length && this.moments[n] <= i) n++;
    if (this.range && n !== this.at) this.go(n, false);
  }
  apply([, what, row]) {
    if (what) {
      const [, pid, number, first, last, state] = row, of = this.vmas.get(number);
      if (!of.has(pid)) of.set(pid, new Intervals());
      of.get(pid).put(first, last, state < 0 ? null : state);
      return;
    }
    const [i, number, first, last, state, origin] = row, of = this.pages.get(number);
    if (state < 0) of.put(first, last, null);
    else if (origin >= 0) of.put(first, last, [state, origin, i]);
    else for (const [a, b, had] of of.runs(first, last)) of.put(a, b, [state, had[1], had[2]]);
  }
  // Which rows of an enclave are drawn: those in which a page is ever there. [first page, pages].
  layout(number, wide) {
    let per = wide > 700 ? 64 : wide > 420 ? 32 : 16;
    const ranges = this.data.changes.filter((c) => c[1] === number && c[4] >= 0);
    for (;; per *= 2) {
      const rows = new Set();
      for (const [, , first, last] of ranges)
        for (let r = Math.floor(first / per); r * per < last && rows.size < 65; r++) rows.add(r);
      if (rows.size < 65) return [[...rows].sort((a, b) => a - b), per];
    }
  }
  draw() {
    this.width = this.run.section.clientWidth;
    for (const box of $$(this.run.section, "div.map")) this.drawOne(box, +box.dataset.enclave);
  }
  drawOne(box, number) {
    const wide = box.clientWidth || this.width, left = 82, across = wide - left - 2;
    const [rows, per] = this.layout(number, wide), states = this.data.states;
    const pids = [...this.vmas.get(number)].filter((m) => m[1].all.length).map((m) => m[0]).slice(0, 6);
    const tall = 17, low = 6;
    const pitch = tall + low * Math.max(pids.length, 1) + 8, out = [];
    let y = 2, before = null;
    const runs = (of, row, at, height, kind) => {
      for (const [a, b, value] of of.runs(row * per, (row + 1) * per)) {
        const x = left + (a - row * per) / per * across, w = Math.max((b - a) / per * across, 1);
        const state = states[kind === "p" ? value[0] : value];
        out.push(`<rect class="${state[1]}" x="${x.toFixed(1)}" y="${at}" width="${w.toFixed(1)}" height="${height}" data-p="${a}" data-q="${b}"><title>${hex(a * 4096)}, ${b - a} pages: ${esc(state[0])}</title></rect>`);
        const label = state[0].split(" ").slice(0, 2).join(" ").replace("REG ", "").replace(" -", "");
        if (kind === "p" && w > 8 * label.length) out.push(`<text${state[1].startsWith("p0") ? "" : ' class="in"'} x="${(x + 4).toFixed(1)}" y="${at + 12.5}">${esc(label)}</text>`);
      }
    };
    for (const row of rows) {
      if (before !== null && row > before + 1) {
        out.push(`<text class="gap" x="${left}" y="${y + 10}">⋯ ${((row - before - 1) * per).toLocaleString("en")} pages in which nothing ever was</text>`);
        y += 17;
      }
      before = row;
      out.push(`<text x="0" y="${y + 13}">${hex(row * per * 4096)}</text><rect class="back" x="${left}" y="${y}" width="${across}" height="${pitch - 8}"/>`);
      runs(this.pages.get(number), row, y, tall, "p");
      pids.forEach((pid, n) => runs(this.vmas.get(number).get(pid), row, y + tall + n * low, low - 1, "v"));
      y += pitch;
    }
    box.innerHTML = `<svg class="map" height="${y}" viewBox="0 0 ${wide} ${y}" role="img" aria-label="Map of enclave ${number}; the table below says the same">${out.join("")}</svg>`;
  }
  // Runs of pages that are alike in everything, as the table has them.
  alike(number) {
    const pages = this.pages.get(number), maps = [...this.vmas.get(number)], edges = new Set();
    for (const of of [pages, ...maps.map((m) => m[1])]) for (const [a, b] of of.all) { edges.add(a); edges.add(b); }
    const at = [...edges].sort((a, b) => a - b), rows = [];
    for (let n = 0; n + 1 < at.length; n++) {
      const page = (pages.runs(at[n], at[n + 1])[0] || [])[2];
      const vma = maps.map(([pid, of]) => [pid, (of.runs(at[n], at[n + 1])[0] || [])[2]]).filter((v) => v[1] !== undefined);
      if (!page && !vma.length) continue;
      const key = JSON.stringify([page, vma]), last = rows[rows.length - 1];
      if (last && last.key === key && last.last === at[n]) last.last = at[n + 1];
      else rows.push({ first: at[n], last: at[n + 1], page, vma, key });
    }
    return rows;
  }
  vmaText(vma) {
    const by = new Map();
    for (const [pid, state] of vma) by.set(state, [...(by.get(state) || []), pid]);
    return [...by].map(([state, pids]) => `${this.data.states[state][0]} in ${pids.join(", ")}`).join("; ");
  }
  table() {
    for (const table of $$(this.run.section, "table.pages")) {
      const rows = this.alike(+table.dataset.enclave), d = this.data, r = this.run.number;
      $(table, "tbody").innerHTML = rows.map(({ first, last, page, vma }) =>
        `<tr><td class="mono nw">${hex(first * 4096)}</td><td class="n">${last - first}</td><td>${page ? esc(d.states[page[0]][0]) : "absent"}</td><td>${esc(this.vmaText(vma))}</td><td>${page ? esc(d.origins[page[1]]) : ""}</td><td class="n">${page ? `<a href="#r${r}c${Math.floor(page[2] / 1000)}" data-run="${r}" data-event="${page[2]}">${page[2]}</a>` : ""}</td></tr>`).join("");
      $(table.closest("details"), ".rows-told").textContent = `${this.at === this.end ? "At the end" : "Now"}: ${rows.length} runs of pages`;
    }
  }
  pick(box, rect) {
    $$(box, ".pick").forEach((e) => e.classList.remove("pick"));
    rect.classList.add("pick");
    const row = this.alike(+box.dataset.enclave).find((w) => w.first <= +rect.dataset.p && +rect.dataset.p < w.last);
    const told = box.nextElementSibling, d = this.data;
    told.hidden = false;
    told.textContent = `${hex(row.first * 4096)} to ${hex(row.last * 4096)}: ${row.page ? d.states[row.page[0]][0] : "absent"}\nVMA: ${this.vmaText(row.vma) || "none"}\n` + (row.page ? `came from ${d.origins[row.page[1]]}, event ${row.page[2]}` : "");
  }
}

// -- the lanes of threads ------------------------------------------------------------------

class Lanes {
  constructor(run, data) {
    this.run = run; this.d = data;
    this.canvas = $(run.section, "canvas.lanes");
    this.n = data.us.length;
    this.times = new Float64Array(this.n);
    let t = 0;
    data.us.forEach((us, i) => { this.times[i] = t += us; });
    this.order = false;
    this.bad = new Uint8Array(this.n);
    for (const i of data.bad) this.bad[i] = 1;
    this.at = 0;
    this.all();
    this.canvas.setAttribute("aria-valuemax", this.n - 1);
    const c = this.canvas, does = { in: () => this.zoom(0.5), out: () => this.zoom(2), all: () => this.all(), error: () => this.error(),
      scale: (b) => { this.order = !this.order; b.setAttribute("aria-pressed", this.order); this.all(); } };
    for (const b of $$(run.section, "[data-do]"))
      if (does[b.dataset.do]) b.addEventListener("click", () => { does[b.dataset.do](b); this.draw(); });
    c.addEventListener("keydown", (e) => this.key(e));
    c.addEventListener("wheel", (e) => { if (!e.ctrlKey && !e.shiftKey) return; e.preventDefault(); this.zoom(e.deltaY > 0 ? 1.3 : 1 / 1.3, this.to(e.offsetX)); this.draw(); }, { passive: false });
    let drag = null;
    c.addEventListener("pointerdown", (e) => { drag = [e.offsetX, this.a, this.b, false]; c.setPointerCapture(e.pointerId); });
    c.addEventListener("pointermove", (e) => {
      if (!drag || Math.abs(e.offsetX - drag[0]) < 4 && !drag[3]) return;
      drag[3] = true;
      this.move(drag[1], drag[2], (drag[0] - e.offsetX) / this.across * (drag[2] - drag[1]));
      this.draw();
    });
    c.addEventListener("pointerup", (e) => { if (drag && !drag[3]) this.pick(e.offsetX, e.offsetY); drag = null; });
    new ResizeObserver(() => this.draw()).observe(c.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }
  pos(i) { return this.order ? i : this.times[i]; }
  get end() { return this.n ? this.pos(this.n - 1) : 1; }
  all() {
    this.a = this.n ? this.pos(0) : 0;
    this.b = this.end + (this.order ? 1 : 1 + (this.end - this.a) * 0.005);
  }
  move(a, b, by) { this.a = a + by; this.b = b + by; }
  to(x) { return this.a + (x - this.left) / this.across * (this.b - this.a); }
  zoom(by, about) {
    if (about === undefined) { about = this.pos(this.at); if (about < this.a || about > this.b) about = (this.a + this.b) / 2; }
    const least = this.order ? 4 : 2;
    if ((this.b - this.a) * by < least) return;
    this.a = about - (about - this.a) * by; this.b = about + (this.b - about) * by;
  }
  // The first event at or after a position.
  after(p) {
    let i = 0, j = this.n;
    while (i < j) { const m = (i + j) >> 1; if (this.pos(m) < p) i = m + 1; else j = m; }
    return i;
  }
  draw() {
    const c = this.canvas, ratio = devicePixelRatio || 1, wide = c.parentElement.clientWidth, high = 26, d = this.d;
    if (!wide) return;
    const tall = d.threads.length * high + 24;
    c.width = wide * ratio; c.height = tall * ratio; c.style.height = tall + "px";
    this.left = 84; this.across = wide - this.left - 6; this.high = high;
    const g = c.getContext("2d"), x = (p) => this.left + (p - this.a) / (this.b - this.a) * this.across;
    g.scale(ratio, ratio);
    g.font = "11px ui-monospace, DejaVu Sans Mono, monospace";
    const colour = { fg: css("--fg"), dim: css("--dim"), line: css("--line"), in: css("--rx"), out: css("--warn"), call: css("--rw"), sig: css("--tcs"), bad: css("--bad") };
    d.threads.forEach(([tid, pid], n) => {
      g.fillStyle = colour.fg;
      g.fillText((tid === pid ? "" : " ") + tid, 4, n * high + 17);
      g.fillStyle = colour.line;
      g.fillRect(this.left, n * high + high - 1, this.across, 1);
    });
    g.save();
    g.beginPath(); g.rect(this.left, 0, this.across, tall); g.clip();
    const drawn = new Map();
    for (const [thread, inside, begin, end, depth] of d.spans) {
      const p = this.pos(begin), q = end < 0 ? this.end : this.pos(end);
      if (q < this.a || p > this.b) continue;
      const l = Math.max(x(p), this.left), r = Math.min(x(q), this.left + this.across), key = thread * 64 + Math.min(depth, 31) * 2 + inside;
      if (r <= (drawn.get(key) ?? -1)) continue;
      drawn.set(key, Math.max(r, l + 1));
      const low = Math.min(depth, 3) * 3;
      g.fillStyle = inside ? colour.in : colour.out;
      g.globalAlpha = inside ? 1 : 0.55;
      g.fillRect(l, thread * high + 5 + low, Math.max(r - l, 1), high - 10 - low);
    }
    g.globalAlpha = 1;
    const seen = new Set();
    for (let i = Math.max(this.after(this.a) - 1, 0); i < this.n && this.pos(i) <= this.b; i++) {
      const kind = +d.kind[i], bad = this.bad[i];
      if (!bad && (kind < 5 || kind === 9)) continue;
      const at = Math.round(x(this.pos(i))), y = d.thread[i] * high, key = (d.thread[i] * 8192 + at) * 4 + (bad ? 3 : kind === 8 ? 2 : 1);
      if (seen.has(key)) continue;
      seen.add(key);
      g.fillStyle = bad || kind === 7 ? colour.bad : kind === 8 ? colour.sig : colour.call;
      if (bad) { g.beginPath(); g.moveTo(at - 4, y + 2); g.lineTo(at + 4, y + 2); g.lineTo(at, y + 11); g.fill(); }
      else if (kind === 8) { g.beginPath(); g.arc(at, y + high - 6, 2.5, 0, 7); g.fill(); }
      else g.fillRect(at - 0.5, y + 4, 1.5, high - 8);
    }
    if (this.n) { g.fillStyle = colour.fg; g.fillRect(x(this.pos(this.at)) - 0.5, 0, 1.5, tall - 20); }
    g.restore();
    g.fillStyle = colour.dim;
    const unit = (p) => this.order ? "event " + Math.round(p) : (p / 1e6).toFixed(this.b - this.a < 1000 ? 6 : 3) + " s";
    g.fillText(unit(Math.max(this.a, 0)), this.left, tall - 6);
    const right = unit(this.b);
    g.fillText(right, this.left + this.across - g.measureText(right).width, tall - 6);
  }
  pick(px, py) {
    const thread = Math.floor(py / this.high), p = this.to(px), near = this.after(p);
    let best = -1;
    for (let k = 0; k < 4000 && best < 0; k++)
      for (const i of [near + k, near - 1 - k])
        if (i >= 0 && i < this.n && (this.d.thread[i] === thread || k > 3000) && best < 0) best = i;
    if (best >= 0) this.run.select(best);
  }
  error() {
    const next = this.d.bad.find((i) => i > this.at) ?? this.d.bad[0];
    if (next !== undefined) this.run.select(next);
  }
  set(i) {
    this.at = Math.min(Math.max(i, 0), this.n - 1);
    const p = this.pos(this.at), wide = this.b - this.a;
    if (p < this.a) { this.b -= this.a - p + wide * 0.1; this.a = this.b - wide; }
    if (p > this.b) { this.a += p - this.b + wide * 0.1; this.b = this.a + wide; }
    this.canvas.setAttribute("aria-valuenow", this.at);
    this.draw();
  }
  key(e) {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: -100, PageDown: 100, Home: -1e9, End: 1e9 }[e.key];
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    if (by) this.run.select(Math.min(Math.max(this.at + by, 0), this.n - 1));
    else if (e.key === "+" || e.key === "=") { this.zoom(0.5); this.draw(); }
    else if (e.key === "-") { this.zoom(2); this.draw(); }
    else if (e.key === "e") this.error();
    else return;
    e.preventDefault();
  }
}

// -- a run ---------------------------------------------------------------------------------

class Run {
  constructor(section) {
    this.section = section;
    this.number = +section.dataset.run;
    const data = JSON.parse(document.getElementById("data" + this.number).textContent);
    this.events = new Events(section);
    this.bad = new Set(data.lanes.bad);
    this.lanes = new Lanes(this, data.lanes);
    this.map = new PageMap(this, data.pages);
    const find = $(section, ".find"), only = $(section, ".only-bad");
    let wait = 0;
    for (const control of [find, only])
      control.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(() => this.find(find.value, only.checked), 120); });
  }
  // Show an event everywhere; from: what asked, which knows already.
  select(i, from) {
    this.lanes.set(i);
    const text = this.events.text(i) || `${i} (prints nothing)`;
    $(this.section, ".event-told").textContent = text;
    this.lanes.canvas.setAttribute("aria-valuetext", text);
    if (from !== this.map) this.map.upTo(i);
  }
  find(text, bad) {
    const out = $(this.section, ".found");
    out.hidden = !text && !bad;
    if (out.hidden) return;
    let test = (line) => line.includes(text);
    const form = /^\/(.+)\/$/.exec(text);
    if (form) {
      try { const re = new RegExp(form[1], "i"); test = (line) => re.test(line); }
      catch (error) { out.textContent = String(error.message); return; }
    }
    const [lines, count] = this.events.find((line) => (!bad || this.bad.has(parseInt(line, 10))) && test(line), 500);
    out.textContent = `${count} found${count > 500 ? ", the first 500" : ""}\n` + lines.join("\n");
  }
}

const runs = $$(document, "section.run").map((section) => new Run(section));
document.addEventListener("click", (e) => {
  const link = e.target.closest("a[data-event]");
  if (!link) return;
  e.preventDefault();
  const run = runs[+link.dataset.run], i = +link.dataset.event;
  run.select(i);
  run.events.show(i);
});
document.documentElement.dataset.ready = String(Math.round(performance.now() - begun));
