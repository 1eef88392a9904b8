// Every answer gets the viewer when it is opened first. Without scripts, its table tells the same.
const SHOWN = JSON.parse(document.getElementById("views-data").textContent);

function showView(box) {
  const place = box.querySelector(".tv-place");
  if (!box.open || !place || place.classList.contains("tv")) return;
  const { kind, experts, tokens, label } = SHOWN[Number(box.dataset.view)];
  const viewer = TokenViewer.mount(place, { kind, experts, label });
  tokens.forEach(viewer.add);
  viewer.select(0);
  const written = box.querySelector(".tv-written");
  const folded = TokenViewer.node("details", { class: "tv-folded" }, TokenViewer.node("summary", {}, "All tokens as a table"));
  written.replaceWith(folded);
  folded.append(written);
}

for (const box of document.querySelectorAll("details[data-view]")) {
  box.addEventListener("toggle", () => showView(box));
  showView(box);
}
