// One session in dash.js: a rule asks the agent before each chunk, by a synchronous request, and reports the chunk before it.
import { MediaPlayer, FactoryMaker, Debug } from "/dashjs/dash.mediaplayer.min.js";

const BUFFER_LIMIT_S = 60; // of the simulator: above it, nothing is asked for
const POLL_MS = 500; // of the simulator's waiting

// Time of playback that was not played: from the first request to the first picture, and whenever the buffer was empty.
class Stalls {
  constructor(video, speed) {
    Object.assign(this, { video, speed, since: null, mark: null, total: 0, reported: 0 });
    video.addEventListener("waiting", () => this.stop());
    video.addEventListener("playing", () => this.go());
  }

  now() {
    return (performance.now() / 1000) * this.speed;
  }

  begin() {
    this.since = this.now();
  }

  // The event may be late: what should have been played since playback began, and was not, belongs to the stall.
  stop() {
    if (this.since !== null || this.mark === null || this.video.ended) return;
    const played = this.video.currentTime - this.mark.position;
    const late = Math.max(this.now() - this.mark.time - played, 0);
    this.since = this.now() - late;
  }

  go() {
    if (this.since !== null) this.total += Math.max(this.now() - this.since, 0);
    this.since = null;
    this.mark = { time: this.now(), position: this.video.currentTime };
  }

  // Seconds since the last call.
  take() {
    const total = this.total + (this.since === null ? 0 : this.now() - this.since);
    const fresh = total - this.reported;
    this.reported = total;
    return fresh;
  }
}

class Playback {
  constructor(settings, video, chart) {
    Object.assign(this, { settings, video, chart });
    this.stalls = new Stalls(video, settings.speed);
    this.arrived = 0; // chunks
    this.asked = []; // time of each chunk's request, in seconds of the session
    this.last = null; // the chunk that arrived last
    this.decided = { chunk: 0, quality: 0 };
    this.readyAt = null; // when the next chunk could have been asked for
  }

  bufferS() {
    const { buffered, currentTime } = this.video;
    return buffered.length ? Math.max(buffered.end(buffered.length - 1) - currentTime, 0) : 0;
  }

  onRequest(url) {
    const found = url.match(/\/(\d+)\/(\d+)\.m4s$/);
    if (!found) return;
    const chunk = Number(found[2]);
    if (chunk === 0) this.stalls.begin();
    this.asked[chunk] = this.stalls.now();
  }

  onArrival(url, bytes) {
    const found = url.match(/\/(\d+)\/(\d+)\.m4s$/);
    if (!found) return;
    const chunk = Number(found[2]);
    // The network's own clock where there is one: this thread may have had other things to do.
    const timing = performance.getEntriesByName(new URL(url, location).href).at(-1);
    const known = timing?.responseEnd > 0;
    const scale = this.settings.speed / 1000;
    const begin = known ? timing.startTime * scale : this.asked[chunk];
    const end = known ? timing.responseEnd * scale : this.stalls.now();
    const waited = this.readyAt === null ? 0 : Math.max(begin - this.readyAt, 0);
    this.last = { chunk, last_quality: Number(found[1]), bytes, delay_s: end - begin, waited_s: waited };
    this.arrived = chunk + 1;
    this.readyAt = end;
    if (this.arrived === this.settings.chunks) this.onLast();
  }

  report() {
    const [now, buffer] = [this.stalls.now(), this.bufferS()];
    if (buffer + now - this.readyAt > BUFFER_LIMIT_S) this.readyAt = now; // the buffer was full until now
    const lag = now - this.readyAt;
    const report = { ...this.last, buffer_s: buffer, rebuffer_s: this.stalls.take(), lag_s: lag };
    this.chart?.add(report, now - this.asked[0]);
    return report;
  }

  // The quality of the next chunk: the rule may be called more than once for it.
  decide() {
    if (this.arrived > this.decided.chunk) {
      const request = new XMLHttpRequest();
      request.open("POST", `/decide/${this.settings.session}`, false);
      request.setRequestHeader("Content-Type", "application/json");
      request.send(JSON.stringify(this.report()));
      if (request.status !== 200) throw new Error(`the agent refused: ${request.responseText}`);
      this.decided = { chunk: this.arrived, quality: JSON.parse(request.responseText).quality };
    }
    return this.decided.quality;
  }

  // The last chunk is reported once it is in the buffer.
  async onLast() {
    const end = this.settings.chunks * this.settings.chunk_s;
    const { buffered } = this.video;
    while (!buffered.length || this.video.buffered.end(this.video.buffered.length - 1) < end - 0.05) {
      await new Promise((wake) => setTimeout(wake, 2));
    }
    const body = JSON.stringify(this.report());
    await fetch(`/end/${this.settings.session}`, { method: "POST", body });
    this.finish();
  }
}

// The rule of dash.js: it has to be a function that makes a class, which dash.js makes an object of.
function ruleOf(playback, fail) {
  function AgentRule() {
    const context = this.context;
    const SwitchRequest = FactoryMaker.getClassFactoryByName("SwitchRequest");
    return {
      getClassName: () => "AgentRule",
      getSwitchRequest(rules) {
        const request = SwitchRequest(context).create();
        try {
          const quality = playback.decide();
          const all = rules.getAbrController().getPossibleVoRepresentations(rules.getMediaInfo(), true);
          request.representation = all.find((one) => one.id === String(quality));
          request.priority = SwitchRequest.PRIORITY.STRONG;
        } catch (error) {
          fail(error);
        }
        return request;
      },
    };
  }
  AgentRule.__dashjs_factory_name = "AgentRule";
  return FactoryMaker.getClassFactory(AgentRule);
}

function options(settings) {
  const buffer = BUFFER_LIMIT_S + settings.chunk_s; // dash.js adds the chunk that it is about to ask for
  const off = { active: false };
  return {
    debug: { logLevel: Debug.LOG_LEVEL_NONE },
    streaming: {
      utcSynchronization: { enabled: false },
      cacheInitSegments: true,
      scheduling: { defaultTimeout: POLL_MS / settings.speed },
      gaps: { jumpGaps: false, enableSeekFix: false },
      buffer: {
        fastSwitchEnabled: false,
        bufferTimeDefault: buffer,
        bufferTimeAtTopQuality: buffer,
        bufferTimeAtTopQualityLongForm: buffer,
        stallThreshold: 0,
      },
      fragmentRequestTimeout: 0, // in an outage of the trace a chunk takes as long as it takes
      retryAttempts: { MediaSegment: 0, InitializationSegment: 0 },
      abr: {
        initialBitrate: { video: settings.bitrates_mbps[0] * 1000 },
        limitBitrateByPortal: false,
        rules: {
          throughputRule: off, bolaRule: off, insufficientBufferRule: off, switchHistoryRule: off,
          droppedFramesRule: off, abandonRequestsRule: off, loLPRule: off, l2ARule: off,
        },
      },
    },
  };
}

// Resolves when the last chunk has arrived.
export function play(settings, video, chart) {
  return new Promise((resolve, reject) => {
    performance.setResourceTimingBufferSize(100_000);
    const player = MediaPlayer().create();
    const playback = new Playback(settings, video, chart);
    const stop = (then) => {
      chart?.stop();
      player.reset();
      then();
    };
    const fail = (error) => stop(() => reject(error));
    playback.finish = () => stop(resolve);
    chart?.start(settings, playback);
    player.initialize();
    player.updateSettings(options(settings));
    player.addABRCustomRule("qualitySwitchRules", "AgentRule", ruleOf(playback, fail));
    player.addRequestInterceptor((request) => {
      playback.onRequest(request.url);
      return Promise.resolve(request);
    });
    player.on(MediaPlayer.events.FRAGMENT_LOADING_COMPLETED, (event) => {
      if (event.error) fail(new Error(`${event.request.url}: ${event.error.message ?? event.error}`));
      else if (event.response) playback.onArrival(event.request.url, event.response.byteLength);
    });
    player.on(MediaPlayer.events.ERROR, (event) => fail(new Error(event.error?.message ?? "dash.js failed")));
    player.attachView(video);
    player.setAutoPlay(true);
    player.attachSource(`/media/${settings.session}/manifest.mpd`);
    video.addEventListener("loadedmetadata", () => player.setPlaybackRate(settings.speed), { once: true });
  });
}
