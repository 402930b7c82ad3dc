// The page: one session (/play/NAME), all sessions in turn (/), or a recorded replay (/recorded).
import { Chart } from "./chart.js";
import { play } from "./session.js";
import { replayAll } from "./recorded.js";

const message = document.getElementById("message");
const video = document.getElementById("video");

function say(text, isError = false) {
  message.textContent = text;
  message.className = isError ? "error" : "";
}

async function playOne(settings, chart) {
  document.getElementById("title").textContent = settings.session;
  document.getElementById("subtitle").textContent = settings.speed === 1 ? "" : `at ${settings.speed} times its pace`;
  try {
    await play(settings, video, chart);
  } catch (error) {
    say(String(error), true);
    await fetch(`/problem/${settings.session}`, { method: "POST", body: String(error) });
    throw error;
  }
}

async function playAll(chart) {
  for (;;) {
    const answer = await fetch("/next");
    if (answer.status === 204) {
      say("All sessions have been played; the results are in the folder of the run.");
      return;
    }
    await playOne(await answer.json(), chart);
  }
}

const [, place, name] = location.pathname.split("/");
if (place === "play") {
  // Nobody looks at a headless browser: no chart, which would cost time.
  playOne(await (await fetch(`/settings/${name}`)).json(), location.hash === "#chart" ? new Chart() : null);
} else if (place === "recorded") {
  replayAll(new Chart(), say);
} else {
  playAll(new Chart());
}
