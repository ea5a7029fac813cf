"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("layer");
const text = document.getElementById("text");
const tip = document.getElementById("tip");
const tokens = [...text.children];
const buttons = [...document.querySelectorAll("#legend button")];
let at = -1;
let only = -1;

// What a token's gate weight says: each expert's share of it in a layer (from 1), or in the mean over all of them (0).
function votes(token, layer) {
  const places = layer ? [layer - 1] : data.layers.keys();
  const result = data.experts.map(() => 0);
  let count = 0;
  for (const place of places) {
    const weights = data.weights[place][token];
    const whole = weights.reduce((a, b) => a + b, 0) || 1;
    data.chosen[place][token].forEach((expert, k) => { result[expert] += weights[k] / whole; });
    count += 1;
  }
  return result.map((vote) => vote / count);
}

function paint() {
  const layer = Number(slider.value);
  const name = layer ? "layer " + data.layers[layer - 1] : "all layers";
  slider.setAttribute("aria-valuetext", name);
  document.getElementById("shown").textContent = name;
  const all = tokens.map((_, token) => votes(token, layer));
  const plain = all.filter((_, token) => !data.special[token]);
  const counted = plain.length ? plain : all;
  buttons.forEach((button, expert) => {
    const share = counted.reduce((sum, vote) => sum + vote[expert], 0) / counted.length;
    button.lastChild.textContent = Math.round(share * 100) + " %";
    button.setAttribute("aria-pressed", String(expert === only));
  });
  tokens.forEach((span, token) => {
    const expert = layer ? data.chosen[layer - 1][token][0] : data.top[token];
    const kept = [...span.classList].filter((c) => c === "special" || c === "part" || c === "here");
    span.className = [...kept, "t", data.marks[expert], only < 0 || expert === only ? "" : "faded"].join(" ").trim();
  });
  if (at >= 0) tell(at);
}

function make(tag, words, into) {
  const element = document.createElement(tag);
  element.textContent = words;
  into.append(element);
  return element;
}

function tell(token) {
  if (at >= 0) tokens[at].classList.remove("here");
  at = token;
  tip.replaceChildren();
  tip.hidden = at < 0;
  document.body.classList.toggle("told", at >= 0);
  if (at < 0) return;
  tokens[at].classList.add("here");
  make("h2", "Token " + at + ": " + JSON.stringify(data.special[at] || data.tokens[at]), tip);
  const list = make("ol", "", tip);
  data.layers.forEach((layer, place) => {
    const item = make("li", "", list);
    make("i", "", item).className = data.marks[data.chosen[place][at][0]];
    const weights = data.weights[place][at];
    const parts = data.chosen[place][at].map((expert, k) => data.experts[expert] + " " + weights[k].toFixed(3));
    item.append("layer " + layer + ": " + parts.join(", "));
    if (place + 1 === Number(slider.value)) item.className = "here";
  });
}

slider.addEventListener("input", paint);
buttons.forEach((button, expert) => button.addEventListener("click", () => {
  only = only === expert ? -1 : expert;
  paint();
}));
text.addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse" && event.target !== text) tell(tokens.indexOf(event.target));
});
text.addEventListener("click", (event) => { if (event.target !== text) tell(tokens.indexOf(event.target)); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tell(-1);
  if (document.activeElement !== text || event.ctrlKey || event.altKey || event.metaKey) return;
  const last = tokens.length - 1;
  const to = { ArrowRight: Math.min(at + 1, last), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  tell(to);
  tokens[to].scrollIntoView({ block: "center" });
});
paint();
