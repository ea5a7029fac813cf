// The page reads well without this. It adds: the theme button, tabs, the layer slider, the legend's choice, tooltips.
"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const percent = (share) => (typeof share === "number" ? `${(100 * share).toFixed(1)} %` : "not measured");
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const expertNames = all(".legend .name").map((name) => name.textContent);
  const nameOf = (index) => expertNames[index] ?? report.experts?.[index] ?? `expert ${index}`;
  document.documentElement.classList.add("scripted");

  // Theme: the reader's system decides until the button is pressed.
  const theme = one("#theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = isDark() ? "Light theme" : "Dark theme"; };
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  systemDark.addEventListener("change", nameTheme);
  nameTheme();

  // Paper shows what is folded too.
  addEventListener("beforeprint", () => { for (const folded of all("details")) folded.open = true; });

  // One tooltip for everything, beside a rectangle of the screen.
  const tip = one("#tip");
  const hideTip = () => { tip.hidden = true; };
  const showTip = (words, box) => {
    tip.textContent = words;
    tip.hidden = false;
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${clamp(box.left + box.width / 2 - tip.offsetWidth / 2, 8, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  // A finger that lifts leaves the tip in place; moving the page or touching elsewhere takes it away.
  const onMouseLeave = (element, leave) => {
    element.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") leave(); });
  };
  for (const gone of ["wheel", "touchmove", "pointerdown"]) addEventListener(gone, hideTip, { passive: true, capture: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  for (const mark of all("[data-tip]")) {
    mark.addEventListener("pointerenter", () => showTip(mark.dataset.tip, mark.getBoundingClientRect()));
    onMouseLeave(mark, hideTip);
  }

  const numberOf = (place) => report.routing?.layers?.[place] ?? place; // layers that do not route have no place

  // Figures over layers: point, tap or use the arrow keys.
  const valueAt = (kind, domain, layer, row) => {
    const routing = report.routing ?? {};
    if (kind === "confusion") return routing.confusion_by_layer?.[domain]?.[layer]?.[row];
    if (kind === "load") return routing.load_by_layer?.[layer]?.[row];
    return (kind === "accuracy" ? routing.accuracy_by_layer : routing.max_vio_by_layer)?.[layer];
  };
  const labelsOf = (svg) => all(".labels li", svg.parentElement).map((label) => label.textContent);
  for (const svg of all(".layers svg")) {
    const { kind, name } = svg.dataset;
    const layers = Number(svg.dataset.layers);
    const rows = Number(svg.dataset.rows);
    const labels = labelsOf(svg);
    const cursor = svg.querySelector(".cursor");
    const here = { layer: 0, row: 0 };
    const read = () => {
      const value = valueAt(kind, name, here.layer, here.row);
      const written = kind === "max_vio" && typeof value === "number" ? value.toFixed(2) : percent(value);
      const box = svg.getBoundingClientRect();
      const [width, height] = [box.width / layers, box.height / rows];
      cursor.setAttribute("x", here.layer);
      cursor.setAttribute("y", here.row);
      cursor.classList.add("on");
      const place = new DOMRect(box.left + here.layer * width, box.top + here.row * height, width, height);
      showTip(`layer ${numberOf(here.layer)} · ${labels[here.row]}: ${written}`, place);
    };
    const leave = () => { cursor.classList.remove("on"); hideTip(); };
    const point = (event) => {
      const box = svg.getBoundingClientRect();
      here.layer = clamp(Math.floor(((event.clientX - box.left) / box.width) * layers), 0, layers - 1);
      here.row = clamp(Math.floor(((event.clientY - box.top) / box.height) * rows), 0, rows - 1);
      read();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    onMouseLeave(svg, leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
        Home: [-layers, 0], End: [layers, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      here.layer = clamp(here.layer + step[0], 0, layers - 1);
      here.row = clamp(here.row + step[1], 0, rows - 1);
      read();
    });
  }

  if (!one("#samples")) return;

  // Sample texts: marks of the chosen layer (-1: by majority over all), those of the legend.
  const slider = one("#layer");
  const chips = all(".chip");
  const panels = all(".panel").map((panel) => ({ panel, tokens: all(".t", panel), data: report.samples?.[panel.dataset.name] ?? {} }));
  let chosen = null;
  const marks = chips.map((chip) => chip.className.replace("chip", "t"));
  const mark = (expert) => marks[expert] ?? "t none";
  const expertAt = (data, layer, place) => {
    const found = data.experts?.[layer]?.[place];
    return Number.isInteger(found) && found >= 0 && found < chips.length ? found : null;
  };
  const majority = (data, place) => {
    const votes = new Map();
    for (let layer = 0; layer < (data.experts?.length ?? 0); layer += 1) {
      const expert = expertAt(data, layer, place);
      if (expert !== null) votes.set(expert, (votes.get(expert) ?? 0) + 1);
    }
    return [...votes].sort((a, b) => b[1] - a[1] || a[0] - b[0])[0] ?? [null, 0];
  };
  const current = (data, place) => {
    const layer = Number(slider.value);
    return layer < 0 ? majority(data, place)[0] : expertAt(data, layer, place);
  };
  const shownPanel = () => panels.find(({ panel }) => !panel.hidden) ?? panels[0];
  const paint = () => {
    const words = Number(slider.value) < 0 ? "all layers, by majority" : `layer ${numberOf(Number(slider.value))}`;
    one("#layer-name").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    const { tokens, data } = shownPanel();
    const counts = chips.map(() => 0);
    tokens.forEach((token, place) => {
      const expert = current(data, place);
      const faded = chosen !== null && chosen !== expert;
      if (expert !== null) counts[expert] += 1;
      token.className = mark(expert) + (faded ? " faded" : "");
    });
    chips.forEach((chip, index) => {
      chip.setAttribute("aria-pressed", String(index === chosen));
      chip.querySelector(".count").textContent = `${Math.round((100 * counts[index]) / Math.max(1, tokens.length))} %`;
    });
  };
  const describe = (data, place) => {
    const layer = Number(slider.value);
    if (layer < 0) {
      const [expert, votes] = majority(data, place);
      return expert === null ? "no expert known" : `${nameOf(expert)} in ${votes} of ${data.experts.length} layers`;
    }
    const expert = expertAt(data, layer, place);
    const weight = data.weights?.[layer]?.[place];
    if (expert === null) return `layer ${numberOf(layer)}: no expert known`;
    return `layer ${numberOf(layer)} · ${nameOf(expert)}` + (typeof weight === "number" ? `, weight ${weight.toFixed(2)}` : "");
  };
  const boxOf = (token) => token.getClientRects()[0] ?? token.getBoundingClientRect(); // its first line
  for (const { panel, tokens, data } of panels) {
    const block = panel.querySelector(".tokens");
    let at = 0;
    const go = (place) => {
      tokens[at]?.classList.remove("at");
      at = clamp(place, 0, tokens.length - 1);
      tokens[at].classList.add("at");
      tokens[at].scrollIntoView({ block: "nearest" });
      showTip(`“${tokens[at].textContent}”\n${describe(data, at)}`, boxOf(tokens[at]));
    };
    const leave = () => { tokens[at]?.classList.remove("at"); hideTip(); };
    const point = (event) => {
      const place = tokens.indexOf(event.target);
      if (place >= 0) showTip(describe(data, place), boxOf(event.target));
    };
    block.addEventListener("pointerover", point);
    block.addEventListener("pointerdown", point);
    onMouseLeave(block, hideTip);
    block.addEventListener("blur", leave);
    block.addEventListener("keydown", (event) => {
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      go(tokens[at].classList.contains("at") ? next : at);
    });
  }
  slider.addEventListener("input", () => { hideTip(); paint(); });
  chips.forEach((chip, index) => {
    chip.disabled = false;
    chip.addEventListener("click", () => { chosen = chosen === index ? null : index; paint(); });
  });
  one(".controls").hidden = false;

  // Tabs, by the ARIA pattern: arrows move, the chosen one alone is in the tab order.
  const tabs = all("[role=tab]");
  const select = (index) => {
    tabs.forEach((tab, each) => {
      tab.setAttribute("aria-selected", String(each === index));
      tab.tabIndex = each === index ? 0 : -1;
      panels[each].panel.hidden = each !== index;
    });
    paint();
  };
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => select(index));
    tab.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const next = { ArrowRight: index === last ? 0 : index + 1, ArrowLeft: index === 0 ? last : index - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      select(next);
      tabs[next].focus();
    });
    panels[index].panel.setAttribute("role", "tabpanel");
    panels[index].panel.setAttribute("aria-labelledby", tab.id);
  });
  one(".tabs").hidden = tabs.length < 2;
  select(0);
})();
