// A chart of one session over its time: bandwidth and chosen bitrate, buffer, stalls. It draws `data` as it stands:
//   bandwidth, rates: [[time, Mbps], ...], each holding until the next one; buffer: [[time, seconds], ...]; stalls: [[from, to], ...]
const PANELS = [
  { name: "Mbps", top: 0, height: 0.52 },
  { name: "buffer [s]", top: 0.58, height: 0.26 },
  { name: "stalls", top: 0.9, height: 0.04 },
];
const LEFT = 52;
const RIGHT = 12;
const TOP = 26;
const BOTTOM = 34;

const dark = matchMedia("(prefers-color-scheme: dark)");
const colours = () =>
  dark.matches
    ? { text: "#b8b8b8", grid: "#333", area: "#3a3a3a", edge: "#777", rate: "#4da3ff", buffer: "#4da3ff", stall: "#ff6b5e" }
    : { text: "#555", grid: "#e6e6e6", area: "#dcdcdc", edge: "#8c8c8c", rate: "#0b62c4", buffer: "#0b62c4", stall: "#c92a1e" };

export const emptyData = () => ({ bandwidth: [], rates: [], buffer: [], stalls: [] });

// Step between ticks: 1, 2 or 5 times a power of ten, at most `most` of them.
function tickStep(range, most) {
  const rough = range / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= rough);
}

export class Chart {
  constructor() {
    this.canvas = document.getElementById("chart");
    this.context = this.canvas.getContext("2d");
    this.figures = document.getElementById("figures");
  }

  // Live, from a session that is playing.
  start(settings, playback) {
    const data = emptyData();
    data.bandwidth = settings.bandwidth_mbps.map((mbps, second) => [second, mbps]);
    Object.assign(this, { data, settings, playback, running: true, stalled: 0 });
    const frame = () => {
      if (!this.running) return;
      this.sample();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.running = false;
  }

  sample() {
    const { data, playback, settings } = this;
    const now = playback.asked.length ? playback.stalls.now() - playback.asked[0] : 0;
    const last = data.buffer.at(-1);
    if (!last || now - last[0] > 0.1 * settings.speed) data.buffer.push([now, playback.bufferS()]);
    const since = playback.stalls.since;
    const origin = playback.asked[0] ?? 0;
    if (since !== null) this.stallFrom = Math.max(since - origin, 0);
    const open = since === null ? [] : [[this.stallFrom, now]];
    if (since === null && this.stallFrom !== undefined) {
      data.stalls.push([this.stallFrom, now]);
      this.stallFrom = undefined;
    }
    this.draw({ ...data, stalls: [...data.stalls, ...open] }, now, settings);
    this.tell(now, playback.last ? settings.bitrates_mbps[playback.last.last_quality] : 0, playback.bufferS());
  }

  // A chunk has arrived, `clock` seconds after the session's start.
  add(report, clock) {
    const begin = clock - report.lag_s - report.delay_s;
    this.data.rates.push([Math.max(begin, 0), this.settings.bitrates_mbps[report.last_quality]]);
  }

  tell(now, mbps, buffer) {
    const at = this.data.bandwidth.filter(([time]) => time <= now).at(-1);
    const stalled = this.data.stalls.reduce((sum, [from, to]) => sum + to - from, 0);
    const shown = [
      ["time", `${now.toFixed(0)} s`],
      ["bandwidth", at ? `${at[1].toFixed(2)} Mbps` : "–"],
      ["bitrate", `${mbps.toFixed(2)} Mbps`],
      ["buffer", `${buffer.toFixed(1)} s`],
      ["stalls, with the start", `${stalled.toFixed(1)} s`],
    ];
    this.figures.innerHTML = shown.map(([name, value]) => `<div><dt>${name}</dt><dd>${value}</dd></div>`).join("");
  }

  draw(data, now, settings) {
    const { canvas, context: c } = this;
    // The canvas in the pixels of the screen.
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== width * ratio || canvas.height !== height * ratio) {
      canvas.width = width * ratio;
      canvas.height = height * ratio;
    }
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = "12px system-ui, sans-serif";
    // The scales.
    const colour = colours();
    const end = Math.max(settings.chunks * settings.chunk_s, now, 1);
    const highest = Math.max(settings.bitrates_mbps.at(-1) * 1.1, ...data.bandwidth.filter(([t]) => t <= now).map(([, v]) => v));
    const x = (time) => LEFT + (time / end) * (width - LEFT - RIGHT);
    const room = height - TOP - BOTTOM;
    const panel = PANELS.map((one) => ({ ...one, from: TOP + one.top * room, size: one.height * room }));
    const scale = (one, most) => (value) => one.from + one.size * (1 - Math.min(value, most) / most);
    const most = Math.min(highest, settings.bitrates_mbps.at(-1) * 2.5); // beyond it nothing can be seen of the bitrates
    const buffers = Math.max(20, ...data.buffer.map(([, seconds]) => seconds)) * 1.05;
    const [rateY, bufferY] = [scale(panel[0], most), scale(panel[1], buffers)];
    this.axes(panel, [rateY, bufferY], [most, buffers], x, end, width, colour);
    // Bandwidth, bitrates, buffer, stalls.
    this.steps(data.bandwidth, now, x, rateY, { fill: colour.area, line: colour.edge, base: rateY(0) });
    this.steps(data.rates, now, x, rateY, { line: colour.rate, width: 2.2 });
    c.strokeStyle = colour.buffer;
    c.lineWidth = 1.8;
    c.beginPath();
    data.buffer.forEach(([time, seconds]) => c.lineTo(x(time), bufferY(seconds)));
    c.stroke();
    c.fillStyle = colour.stall;
    for (const [from, to] of data.stalls) {
      const least = Math.max(x(to) - x(from), 1.5);
      c.fillRect(x(from), panel[2].from, least, panel[2].size);
    }
    this.legend(colour);
  }

  axes(panel, scales, tops, x, end, width, colour) {
    const c = this.context;
    c.lineWidth = 1;
    c.textAlign = "right";
    c.textBaseline = "middle";
    scales.forEach((y, number) => {
      const step = tickStep(tops[number], number ? 4 : 6);
      for (let value = 0; value <= tops[number]; value += step) {
        c.strokeStyle = colour.grid;
        c.beginPath();
        c.moveTo(LEFT, y(value));
        c.lineTo(width - RIGHT, y(value));
        c.stroke();
        c.fillStyle = colour.text;
        c.fillText(String(Number(value.toPrecision(3))), LEFT - 6, y(value));
      }
    });
    c.strokeStyle = colour.grid;
    c.strokeRect(LEFT, panel[2].from, width - LEFT - RIGHT, panel[2].size);
    c.fillText("stalls", LEFT - 6, panel[2].from + panel[2].size / 2);
    c.textAlign = "left";
    panel.slice(0, 2).forEach((one) => c.fillText(one.name, 2, one.from - 12));
    c.textAlign = "center";
    const step = tickStep(end, 10);
    for (let time = 0; time <= end; time += step) c.fillText(`${time} s`, x(time), panel[2].from + panel[2].size + 16);
  }

  // Values that hold until the next one, up to `now`.
  steps(points, now, x, y, { fill, line, width = 1, base }) {
    const c = this.context;
    const shown = points.filter(([time]) => time <= now);
    if (!shown.length) return;
    c.beginPath();
    shown.forEach(([time, value], number) => {
      c.lineTo(x(time), y(value));
      c.lineTo(x(Math.min(shown[number + 1]?.[0] ?? now, now)), y(value));
    });
    c.strokeStyle = line;
    c.lineWidth = width;
    c.stroke();
    if (!fill) return;
    c.lineTo(x(now), base);
    c.lineTo(x(shown[0][0]), base);
    c.fillStyle = fill;
    c.globalAlpha = 0.6;
    c.fill();
    c.globalAlpha = 1;
  }

  legend(colour) {
    const c = this.context;
    c.textAlign = "left";
    let left = LEFT + 40;
    for (const [name, stroke, width] of [["bandwidth", colour.edge, 1], ["chosen bitrate", colour.rate, 2.2], ["stall", colour.stall, 6]]) {
      c.strokeStyle = stroke;
      c.lineWidth = width;
      c.beginPath();
      c.moveTo(left, 13);
      c.lineTo(left + 22, 13);
      c.stroke();
      c.fillStyle = colour.text;
      c.fillText(name, left + 28, 13);
      left += 48 + c.measureText(name).width;
    }
  }
}
