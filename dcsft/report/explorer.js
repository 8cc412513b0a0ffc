// Shows the example cards that match the chosen difficulty and pass rate; without this script all are shown.
"use strict";
const form = document.getElementById("filter");
const cards = [...document.getElementById("cards").children];

function show() {
  const difficulty = form.elements.difficulty.value;
  const rate = form.elements.rate.value;
  let count = 0;
  for (const card of cards) {
    const match =
      (difficulty === "all" || card.dataset.difficulty === difficulty) &&
      (rate === "all" || card.dataset.rate === rate);
    card.hidden = !match;
    count += match;
  }
  form.querySelector("output").textContent = `${count} of ${cards.length} examples`;
}

form.addEventListener("change", show);
form.hidden = false;
show();
