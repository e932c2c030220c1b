"use strict";

// Sorts and filters the rows of each gallery, and opens an image in a dialog. The page is whole without it.

function start(gallery) {
  const find = (selector) => gallery.querySelector(selector);
  const data = JSON.parse(find(".data").textContent);
  const list = find(".rows");
  const rows = [...list.children].map((element, row) => ({
    element,
    row,
    prompt: data.prompts[data.numbers[row]],
    category: data.categories[data.numbers[row]] ?? "",
  }));
  const controls = find(".controls");
  const fields = Object.fromEntries(
    ["filter", "category", "order", "model", "minus", "direction", "count"].map((name) => [
      name,
      controls.elements.namedItem(name),
    ])
  );
  const heads = [...find(".heads").children];
  const texts = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  let isDescending = false;
  let shown = rows;

  // The score of a row that decides its place; undefined if a model has not got it.
  function valueOf(row) {
    const values = data.values[fields.order.value][row];
    const value = values[fields.model.value];
    const other = fields.minus?.value ? values[fields.minus.value] : 0;
    return value === null || other === null ? undefined : value - other;
  }

  const sortsByScore = () => fields.order.value in data.values;

  function compareRows(a, b) {
    const turn = isDescending ? -1 : 1;
    const order = fields.order.value;
    if (sortsByScore()) {
      const [one, other] = [valueOf(a.row), valueOf(b.row)];
      if (one === undefined || other === undefined) {
        return (one === undefined) - (other === undefined) || a.row - b.row; // unknown values stand last
      }
      return turn * (one - other) || a.row - b.row;
    }
    if (order === "list") return turn * (a.row - b.row);
    return turn * texts.compare(a[order], b[order]) || a.row - b.row;
  }

  function matches({ prompt, category }) {
    const words = fields.filter.value.toLowerCase().split(/\s+/);
    const chosen = fields.category?.value ?? "";
    return words.every((word) => prompt.toLowerCase().includes(word)) && (!chosen || category === chosen);
  }

  function format(name, value) {
    return value.toFixed(data.decimals[name]);
  }

  // Under each model's name: its mean over the rows in sight, of the score that sorts them or of the first.
  function showMeans() {
    const name = sortsByScore() ? fields.order.value : Object.keys(data.values)[0];
    heads.forEach((head, model) => {
      const known = shown.map(({ row }) => data.values[name][row][model]).filter((value) => value !== null);
      const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
      head.querySelector(".mean").textContent = known.length
        ? `${data.scores[name]} ${format(name, mean)}`
        : `no ${data.scores[name]}`;
      const sorts = sortsByScore() && Number(fields.model.value) === model;
      head.setAttribute("aria-pressed", sorts);
      head.querySelector("b").dataset.direction = sorts ? (isDescending ? "↓" : "↑") : "↕";
    });
  }

  function update() {
    shown = rows.filter(matches).sort(compareRows);
    const visible = new Set(shown);
    for (const one of rows) one.element.hidden = !visible.has(one);
    list.append(...shown.map((one) => one.element));
    fields.model.disabled = !sortsByScore();
    if (fields.minus) fields.minus.disabled = !sortsByScore();
    fields.direction.textContent = isDescending ? "↓ descending" : "↑ ascending";
    fields.count.textContent = `${shown.length} of ${rows.length} rows`;
    showMeans();
  }

  fields.filter.addEventListener("input", update);
  for (const select of [fields.category, fields.model, fields.minus]) select?.addEventListener("change", update);
  fields.order.addEventListener("change", () => {
    isDescending = sortsByScore(); // the best first; texts from a to z
    update();
  });
  fields.direction.addEventListener("click", () => {
    isDescending = !isDescending;
    update();
  });
  heads.forEach((head, model) =>
    head.addEventListener("click", () => {
      const isSorting = sortsByScore() && Number(fields.model.value) === model;
      isDescending = isSorting ? !isDescending : true;
      if (!sortsByScore()) fields.order.value = Object.keys(data.values)[0];
      fields.model.value = model;
      update();
    })
  );
  controls.addEventListener("submit", (event) => event.preventDefault());

  // The dialog: left and right go through the models, up and down through the rows in sight.

  const viewer = find("dialog");
  let opened = { row: 0, model: 0 };

  function open(row, model) {
    const element = rows[row].element.querySelectorAll("figure")[model];
    const small = element.querySelector("img");
    if (!small) return false;
    opened = { row, model };
    const image = viewer.querySelector("img");
    image.src = data.large[row][model] ?? small.src;
    image.alt = `${data.models[model]}: ${rows[row].prompt}`;
    image.width = small.width;
    image.height = small.height;
    image.className = small.className;
    const seed = data.seeds[row] === null ? "seed not known" : `seed ${data.seeds[row]}`;
    const scores = Object.entries(data.values)
      .filter(([, values]) => values[row][model] !== null)
      .map(([name, values]) => `${data.scores[name]} ${format(name, values[row][model])}`);
    const caption = viewer.querySelector("figcaption");
    const name = document.createElement("b");
    name.textContent = data.models[model];
    caption.replaceChildren(name, ` ${rows[row].prompt} (${[seed, ...scores].join(", ")})`);
    if (!viewer.open) viewer.showModal();
    return true;
  }

  function move(models, steps) {
    let { row, model } = opened;
    if (models) {
      for (let tries = 0; tries < data.models.length; tries += 1) {
        model = (model + models + data.models.length) % data.models.length;
        if (open(row, model)) return;
      }
    }
    if (steps) {
      let place = shown.findIndex((one) => one.row === row) + steps;
      while (place >= 0 && place < shown.length && !open(shown[place].row, model)) place += steps;
    }
  }

  list.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cell]");
    if (button) open(...button.dataset.cell.split(",").map(Number));
  });
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.move) move(Number(button.dataset.move), 0);
    else if (button || event.target === viewer) viewer.close();
  });
  viewer.addEventListener("close", () => {
    const cell = rows[opened.row].element.querySelectorAll("figure")[opened.model];
    cell.querySelector("button")?.focus();
  });
  viewer.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      event.preventDefault();
      move(...moves[event.key]);
    }
  });
  controls.hidden = false;
  update();
}

for (const gallery of document.querySelectorAll(".gallery")) start(gallery);

document.addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !isTyping && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    document.querySelector(".gallery [name=filter]").focus();
  }
});
