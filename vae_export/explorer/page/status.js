// The bar that says whether this machine computes the right pixels, the speed, and what went wrong.

const find = (id) => document.getElementById(id);

export function showWorking(what) {
  set("running", what, "");
}

/** Verdict and figures of the golden vectors, on the engine that was chosen. */
export function showSelfTest(model) {
  const { judgements, noise, passed } = model.selfTest;
  const worst = judgements.reduce((a, b) => (b.error / b.band > a.error / a.band ? b : a));
  const pixels = judgements.reduce((sum, item) => sum + item.pixels, 0);
  const sum = (key) => judgements.reduce((total, item) => total + item[key], 0).toLocaleString("en");
  const figures = [
    `worst error ${figure(worst.error)} of ${figure(worst.band)} allowed (${worst.part}, ${worst.tensor})`,
    `${sum("differing")} of ${pixels.toLocaleString("en")} pixels differ` + (sum("differing") === "0" ? "" : `, ${sum("unexplained")} unexplained`),
    ...(noise === null ? [] : [noise ? "noise right to the bit" : "noise has other bits"]),
  ];
  const verdict = passed ? "Self-test passed" : "Self-test failed: do not trust these pixels";
  const where = model.backend === "webgpu" ? " on WebGPU" : "";
  set(passed ? "passed" : "failed", `${verdict}${where}.`, `${capital(figures.join(" · "))}`);
  showSpeed(model);
}

export function showSpeed({ milliseconds, threads, backend }) {
  find("speed").textContent = milliseconds < 10 ? milliseconds.toFixed(2) : milliseconds.toFixed(0);
  const engine = backend === "wasm" ? ` · ${threads} ${threads === 1 ? "thread" : "threads"}` : "";
  find("speed-unit").textContent = `ms per decode${engine}`;
}

export function showFailure(title, text) {
  find("failure-title").textContent = title;
  find("failure-text").textContent = text;
  find("failure").hidden = false;
  find("failure").scrollIntoView({ block: "nearest" });
}

export function hideFailure() {
  find("failure").hidden = true;
}

function set(state, verdict, figures) {
  find("check").dataset.state = state;
  find("verdict").textContent = verdict;
  find("figures").textContent = figures;
}

const figure = (number) => (number === 0 ? "0" : number === Infinity ? "∞" : number.toExponential(1).replace("e-", "e−"));
const capital = (text) => text[0].toUpperCase() + text.slice(1);
