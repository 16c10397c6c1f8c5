// The status bar: the verdict of the self-test, the decoding speed, and error messages.

const find = (id) => document.getElementById(id);

export function showProgress(text) {
  setStatus("running", text, "");
}

/** Show the verdict and the figures of the self-test. */
export function showSelfTest(model) {
  const { outputs, noise, passed } = model.selfTest;
  const worst = outputs.reduce((a, b) => (share(b) > share(a) ? b : a));
  const sum = (key) => outputs.reduce((total, output) => total + output[key], 0);
  const count = (key) => sum(key).toLocaleString("en");
  const figures = [
    `worst error ${figure(worst.error)} of ${figure(worst.tolerance)} allowed (${worst.part}, ${worst.tensor})`,
    ...(sum("pixels") ? [describePixels(count, sum("differing"))] : []),
    ...(noise.total ? [noise.same === noise.total ? "random latents correct to the bit" : "random latents have wrong bits"] : []),
  ];
  const verdict = passed ? "Self-test passed" : "Self-test failed: do not trust these pixels";
  const where = model.backend === "webgpu" ? " on WebGPU" : "";
  setStatus(passed ? "passed" : "failed", `${verdict}${where}.`, capitalise(figures.join(" · ")));
  showSpeed(model);
}

function describePixels(count, differing) {
  return `${count("differing")} of ${count("pixels")} pixels differ${differing ? `, ${count("unexplained")} unexplained` : ""}`;
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

function setStatus(state, verdict, figures) {
  find("check").dataset.state = state;
  find("verdict").textContent = verdict;
  find("figures").textContent = figures;
}

const share = ({ error, tolerance }) => (error === 0 ? 0 : error / tolerance); // no code may differ with a tolerance of 0
const figure = (number) => (number === 0 ? "0" : number === Infinity ? "∞" : number.toExponential(1).replace("e-", "e−"));
const capitalise = (text) => text[0].toUpperCase() + text.slice(1);
