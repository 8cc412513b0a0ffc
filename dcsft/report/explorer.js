// Each form shows the cards of its list that match all its choices; without this script all cards are shown.
"use strict";
for (const form of document.querySelectorAll("form.filter")) {
  const cards = [...document.getElementById(form.dataset.cards).children];
  const show = () => {
    const choices = [...new FormData(form)].filter(([, value]) => value !== "all");
    let count = 0;
    for (const card of cards) {
      const match = choices.every(([name, value]) => card.dataset[name].split(" ").includes(value));
      card.hidden = !match;
      count += match;
    }
    form.querySelector("output").textContent = `${count} of ${cards.length} examples`;
  };
  form.addEventListener("change", show);
  form.hidden = false;
  show();
}
