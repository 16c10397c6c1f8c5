// A field for each condition of the contract. Its value stands for all rows that the page decodes and encodes.

const MOST_OPTIONS = 20; // an integer with more values gets a field for a number

/** Show the fields; a new value is decoded, encoded and drawn at once. */
export function showConditions(shown) {
  const { latents, signal, model: { contract } } = shown;
  const box = document.getElementById("conditions");
  const error = document.getElementById("condition-error");
  document.getElementById("conditions-card").hidden = contract.conditions.length === 0;
  error.hidden = true;
  box.replaceChildren(...contract.conditions.map((condition) => {
    const field = makeField(condition, shown.model.conditions[condition.name]);
    field.addEventListener("change", () => {
      const numbers = readNumbers(field.value, condition);
      field.setAttribute("aria-invalid", numbers === null);
      error.hidden = numbers !== null;
      error.textContent = numbers === null ? `${condition.name} is ${describe(condition)}.` : "";
      if (numbers === null) return;
      shown.model.conditions[condition.name] = numbers;
      shown.engineChanged.dispatchEvent(new Event("change"));
      latents.replace(latents.values);
    }, { signal });
    const label = Object.assign(document.createElement("label"), { textContent: `${condition.name} `, title: describe(condition) });
    label.append(field);
    return label;
  }));
}

/** Return the conditions of a part as arguments of Python, such as "label=3". */
export function describeConditions({ contract, conditions }, part) {
  const taken = contract.conditions.filter(({ parts }) => parts.includes(part));
  return taken.map(({ name, item, dtype }) => {
    const numbers = conditions[name];
    return `${name}=${item.length === 0 ? numbers[0] : `np.${dtype}([${numbers.join(", ")}])`}`;
  });
}

function makeField({ dtype, range, item }, numbers) {
  const isInteger = dtype !== "float32" && item.length === 0;
  if (isInteger && range[1] - range[0] < MOST_OPTIONS) {
    const select = document.createElement("select");
    for (let value = range[0]; value <= range[1]; value += 1) select.append(new Option(value, value));
    select.value = numbers[0];
    return select;
  }
  const input = Object.assign(document.createElement("input"), { autocomplete: "off", spellcheck: false });
  if (isInteger) Object.assign(input, { type: "number", min: range[0], max: range[1], step: 1 });
  input.value = numbers.join(", ");
  input.size = Math.min(40, Math.max(8, input.value.length));
  return input;
}

/** Return the typed numbers, or null if they are not what the condition takes. */
function readNumbers(text, { dtype, range, item }) {
  const numbers = text.split(",").map((part) => (part.trim() === "" ? NaN : Number(part)));
  const size = item.reduce((a, b) => a * b, 1);
  const isRight = (number) =>
    Number.isFinite(number) && (dtype === "float32" || Number.isInteger(number)) && (range === null || (number >= range[0] && number <= range[1]));
  return numbers.length === size && numbers.every(isRight) ? numbers : null;
}

function describe({ dtype, range, item }) {
  const size = item.reduce((a, b) => a * b, 1);
  const kind = dtype === "float32" ? "number" : "whole number";
  const count = size === 1 ? `a ${kind}` : `${size} ${kind}s, with commas between them`;
  return count + (range === null ? "" : ` from ${range[0]} to ${range[1]}`);
}
