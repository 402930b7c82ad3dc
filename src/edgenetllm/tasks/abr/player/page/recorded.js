// Sessions that were played before, drawn again from their records: no video, no agent.
import { emptyData } from "./chart.js";

// What the chart draws at `now`: a chunk's bitrate and bandwidth hold from its request to its arrival.
function dataUntil(chunks, now) {
  const data = emptyData();
  let [time, buffer] = [chunks[0].clock_s - chunks[0].delay_s, 0];
  for (const chunk of chunks) {
    const begin = chunk.clock_s - chunk.delay_s;
    if (begin > now) break;
    data.bandwidth.push([begin, chunk.bandwidth_mbps]);
    data.rates.push([begin, chunk.bitrate_mbps]);
    const end = Math.min(chunk.clock_s, now);
    data.buffer.push([time, buffer]);
    const empty = time + buffer;
    if (empty < end) data.buffer.push([empty, 0]);
    data.buffer.push([end, Math.max(buffer - (end - time), 0)]);
    if (chunk.rebuffer_s > 0 && chunk.clock_s - chunk.rebuffer_s < now) {
      data.stalls.push([chunk.clock_s - chunk.rebuffer_s, end]);
    }
    if (chunk.clock_s <= now) [time, buffer] = [chunk.clock_s, chunk.buffer_s];
  }
  return data;
}

function show(session, settings, chart) {
  const first = session.chunks[0];
  const origin = first.clock_s - first.delay_s;
  const chunks = session.chunks.map((chunk) => ({ ...chunk, clock_s: chunk.clock_s - origin }));
  const length = chunks.at(-1).clock_s;
  settings = { ...settings, chunks: 1, chunk_s: length }; // the time axis ends with the session
  const began = performance.now();
  return new Promise((done) => {
    const frame = () => {
      const now = Math.min(((performance.now() - began) / 1000) * settings.speed, length);
      chart.data = dataUntil(chunks, now);
      chart.draw(chart.data, now, settings);
      chart.tell(now, chart.data.rates.at(-1)?.[1] ?? 0, chart.data.buffer.at(-1)?.[1] ?? 0);
      if (now < length) requestAnimationFrame(frame);
      else done();
    };
    frame();
  });
}

export async function replayAll(chart, say) {
  const recording = await (await fetch("/recording")).json();
  for (const session of recording.sessions) {
    document.getElementById("title").textContent = `${session.policy} · ${session.episode}`;
    document.getElementById("subtitle").textContent = `recorded, at ${recording.speed} times its pace`;
    await show(session, recording, chart);
    await new Promise((wake) => setTimeout(wake, 1500));
  }
  say("All recorded sessions have been shown. Load the page again to see them once more.");
}
