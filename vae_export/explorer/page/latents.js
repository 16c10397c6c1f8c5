// The current latents, how strongly each changes the image, and a slider for each.

const REACH = 4; // a slider goes from -4 to 4; a latent beyond it is shown at the end, with its true value
const INERT = 0.02; // a latent with less than this share of the strongest effect is greyed out

/** The latents that the page shows now. Every view changes them here and listens for "change". */
export class Latents extends EventTarget {
  /** @param {number} size numbers in a row of latents */
  constructor(size) {
    super();
    this.values = new Float32Array(size);
  }

  /** Change some of the values: {index: value}. */
  set(changes) {
    for (const [index, value] of Object.entries(changes)) this.values[index] = value;
    this.dispatchEvent(new Event("change"));
  }

  /** Change all values. */
  replace(values) {
    this.values = Float32Array.from(values);
    this.dispatchEvent(new Event("change"));
  }
}

/** How many latents get a slider at most: a feature map has thousands. */
export const SHOWN = 32;
const EFFECT_STEP = 2;

/** For each of the first `SHOWN` latents, return the RMS change of the image between -2 and 2, the other latents at 0. */
export async function measureEffects(model) {
  const count = Math.min(model.size, SHOWN);
  const effects = new Float32Array(count);
  for (let index = 0; index < count; index += 1) {
    const latents = new Float32Array(2 * model.size);
    latents[index] = -EFFECT_STEP;
    latents[model.size + index] = EFFECT_STEP;
    const [below, above] = await model.decodeNumbers(latents);
    effects[index] = Math.sqrt(above.reduce((sum, value, pixel) => sum + (value - below[pixel]) ** 2, 0) / above.length);
  }
  return effects;
}

/** Return the indices of the two latents that change the image most, the strongest first. */
export function strongestTwo(effects) {
  const order = Array.from(effects.keys()).sort((a, b) => effects[b] - effects[a]);
  return [order[0], order[Math.min(1, order.length - 1)]];
}

/** Show one slider for each latent. */
export function showSliders({ model, latents, effects, signal }) {
  const box = document.getElementById("sliders");
  const strongest = Math.max(...effects);
  const sliders = Array.from(effects, (effect, index) => makeSlider(index, effect < INERT * strongest));
  box.replaceChildren(...sliders.map(({ row }) => row));
  document.getElementById("sliders-note").textContent =
    model.size > SHOWN ? `The first ${SHOWN} of ${model.size.toLocaleString("en")} latents. Samples and images set all.` : "";

  box.addEventListener("input", ({ target }) => latents.set({ [target.dataset.index]: Number(target.value) }), { signal });
  box.addEventListener("dblclick", ({ target }) => {
    const index = target.closest(".slider")?.querySelector("input").dataset.index;
    if (index !== undefined) latents.set({ [index]: 0 });
  }, { signal });
  latents.addEventListener("change", () => sliders.forEach(({ show }, index) => show(latents.values[index])), { signal });
}

function makeSlider(index, inert) {
  const row = document.createElement("label");
  row.className = inert ? "slider inert" : "slider";
  const name = Object.assign(document.createElement("span"), { className: "index", textContent: `z${index}` });
  const input = Object.assign(document.createElement("input"), { type: "range", min: -REACH, max: REACH, step: "any", value: 0 });
  input.dataset.index = index;
  const output = document.createElement("output");
  row.title = inert ? "Hardly changes the image. Double-click to set it to 0." : "Double-click to set it to 0.";
  row.append(name, input, output);
  const show = (value) => {
    input.value = value;
    input.style.setProperty("--at", `${50 + (50 * Math.max(-REACH, Math.min(REACH, value))) / REACH}%`);
    output.textContent = format(value);
  };
  return { row, show };
}

const format = (value) => (Math.abs(value) < 0.005 ? "0.00" : value.toFixed(2).replace("-", "−"));
