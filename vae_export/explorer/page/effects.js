// Which latents change the image at all: many a VAE leaves some of its latents unused.

/** Latents that have a slider; a feature map has thousands of them. */
export const SHOWN = 32;
const STEP = 2;

/** For each of the first `SHOWN` latents, how much the image changes (RMS) when it goes from -2 to 2 and others are zero. */
export async function measureEffects(model) {
  const count = Math.min(model.size, SHOWN);
  const effects = new Float32Array(count);
  for (let index = 0; index < count; index += 1) {
    const latents = new Float32Array(2 * model.size);
    latents[index] = -STEP;
    latents[model.size + index] = STEP;
    const [below, above] = await model.decode(latents);
    effects[index] = Math.sqrt(above.reduce((sum, value, pixel) => sum + (value - below[pixel]) ** 2, 0) / above.length);
  }
  return effects;
}

/** The two latents that change the image most, the first one first. */
export function strongest(effects) {
  const order = Array.from(effects.keys()).sort((a, b) => effects[b] - effects[a]);
  return [order[0], order[Math.min(1, order.length - 1)]];
}
