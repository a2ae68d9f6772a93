// Words of code stay whole, and a table that would not fit becomes a block for each row, at every width of the window.

// Shorter words fit on a line of every window.
const LONG = 40;
// Of a cell and of its code, in pixels.
const PADDING = 40;
const longWords = [];

function keepWhole(code) {
  const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const text of texts) {
    const parts = text.data.split(/(\s+|(?<=,))/).filter(Boolean).map((part) => {
      const word = document.createElement("span");
      word.textContent = part;
      if (part.trim()) word.className = "whole";
      if (part.length > LONG) longWords.push(word);
      return word;
    });
    text.replaceWith(...parts);
  }
}

/** Beside each cell of a block is the head of its column. */
function label(table) {
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent);
  for (const row of table.tBodies[0]?.rows ?? [])
    [...row.cells].forEach((cell, at) => { cell.dataset.label = heads[at] ?? ""; });
}

const article = document.querySelector("article");
const tables = [...article.querySelectorAll("table:not([class])")];
article.querySelectorAll(":not(pre) > code").forEach(keepWhole);
tables.forEach(label);

let width = 0;
new ResizeObserver(() => {
  if (article.clientWidth === width) return;
  // A table that is too wide makes the page wider: first as narrow as can be.
  for (const table of tables) table.classList.add("stacked");
  for (const word of longWords) word.classList.remove("whole");
  width = article.clientWidth;
  for (const word of longWords) word.classList.add("whole");
  const broken = longWords.filter((word) => word.offsetWidth > width - PADDING);
  for (const word of broken) word.classList.remove("whole");
  for (const table of tables) table.classList.remove("stacked");
  const wide = tables.filter((table) => table.scrollWidth > width + 1);
  for (const table of wide) table.classList.add("stacked");
}).observe(article);
