"use strict";
/*
 * One answer, token by token: a row of buttons, and below it what the chosen token looked like to the mixture and to
 * every expert. Used by a run's report and by the page of `ensemw2s serve`; needs viewer.css and nothing else.
 *
 *   const viewer = TokenViewer.mount(element, {kind, experts, label});
 *   viewer.add(token); viewer.select(0);
 *
 * kind     "answer": tokens that the ensemble emitted; "label": the right tokens of a labelled training row.
 * experts  [{alpha, weight}], weight being the share of the vote.
 * token    {text, probability, likeliest, top: [{text, probability}], weights: [number an expert],
 *           votes: [{text, probability, chosen, agrees}]}; see docs/formats.md. Unknown numbers are null.
 *
 * Texts come from models and data: they reach the page as text nodes and attributes only, never as markup.
 */
const TokenViewer = (() => {
  const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\x7f": "␡" };
  const UNSEEN = /^[\p{Cc}\p{Cf}\p{Cs}\p{Zs}\p{Zl}\p{Zp}]$/u;
  let count = 0;

  // The twin of ensemw2s/viewer/text.py.
  function seen(character) {
    if (Object.hasOwn(SIGNS, character)) return SIGNS[character];
    const code = character.codePointAt(0);
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return UNSEEN.test(character) ? `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩` : character;
  }

  function visible(text) {
    const shown = Array.from(String(text), seen).join("");
    return /^\p{M}/u.test(shown) ? "◌" + shown : shown || "∅";
  }

  function known(number) {
    return typeof number === "number" && Number.isFinite(number);
  }

  function percent(share) {
    if (!known(share)) return "–";
    if (share > 0 && share < 0.0005) return "<\u00a00.1\u00a0%";
    return `${(100 * share).toFixed(1)}\u00a0%`;
  }

  function node(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value));
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  // <bdi>: a text that runs from right to left turns nothing around it.
  function word(text, extra) {
    return node("span", { class: "token" + (extra ? ` ${extra}` : "") }, node("bdi", {}, visible(text)));
  }

  function bar(share) {
    const made = node("span", { class: "tv-bar", "aria-hidden": "true" });
    made.style.setProperty("--share", String(known(share) ? Math.max(0, Math.min(1, share)) : 0));
    return made;
  }

  // Heads of numbers begin with "#": they stand above them, at the right.
  function table(caption, heads, rows) {
    const line = node("tr", {}, ...heads.map((head) =>
      node("th", { scope: "col", class: head.startsWith("#") ? "num" : null }, head.replace("#", ""))));
    return node("table", { class: "tv-table" }, node("caption", {}, caption), node("thead", {}, line), node("tbody", {}, ...rows));
  }

  function disagreed(token) {
    return token.votes.some((vote) => vote.text !== token.votes[0].text || vote.agrees !== token.votes[0].agrees);
  }

  function agreeing(token, experts) {
    const share = token.votes.reduce((sum, vote, place) => sum + (vote.agrees ? experts[place]?.weight ?? 0 : 0), 0);
    return { experts: token.votes.filter((vote) => vote.agrees).length, share };
  }

  // Marks by more than colour: a sign and a line each, and words for those who hear the page.
  function marks(token, kind) {
    const found = [];
    if (disagreed(token)) found.push({ name: "split", sign: "≠", said: "experts disagreed" });
    if (token.likeliest === false) {
      found.push({ name: "missed", sign: "✗", said: kind === "label" ? "the mixture gets it wrong" : "not the likeliest" });
    }
    return found;
  }

  function shade(token, kind) {
    if (kind === "label") {
      const weight = token.weights?.at(-1);
      return known(weight) ? Math.max(0, Math.min(1, (weight - 1) / 4)) : 0;
    }
    return known(token.probability) ? 1 - token.probability : 0;
  }

  function sentence(token, place, total, kind, experts) {
    const said = [`Token ${place + 1} of ${total}, `, word(token.text), ":"];
    said.push(known(token.probability) ? ` the mixture gives it ${percent(token.probability)}` : " see the votes");
    if (known(token.probability) && token.likeliest === false && token.top.length) {
      said.push(", and finds ", word(token.top[0].text), " likelier");
    }
    said.push(".");
    const found = agreeing(token, experts);
    const [most, weight] = [token.votes.length, percent(found.share)];
    if (most && !found.experts) said.push(" No expert finds it likeliest.");
    else if (most) said.push(` ${found.experts} of ${most} experts, with ${weight} of the vote, find it likeliest.`);
    return node("p", { class: "tv-said" }, ...said);
  }

  function mixtureTable(token) {
    const rows = token.top.map((one) =>
      node("tr", {}, node("th", { scope: "row" }, word(one.text)),
        node("td", { class: "tv-track" }, bar(one.probability)), node("td", { class: "num" }, percent(one.probability))));
    return table("The mixture's likeliest tokens", ["token", "", "#probability"], rows);
  }

  // Words that a narrow screen has no room for; those who hear the page hear them there, too.
  function roomy(text, extra) {
    return node("span", { class: "tv-roomy" + (extra ? ` ${extra}` : "") }, text);
  }

  function weightCell(token, place) {
    const weight = token.weights?.[place];
    return node("td", { class: "num" }, known(weight) ? `× ${weight.toFixed(2)}` : "–");
  }

  function expertTable(token, kind, experts) {
    const labelled = kind === "label";
    const rows = token.votes.map((vote, place) => {
      const expert = experts[place] ?? {};
      const verdict = vote.agrees ? (labelled ? "right" : "agrees") : labelled ? "wrong" : "disagrees";
      const sign = node("span", { class: vote.agrees ? "yes" : "no" }, vote.agrees ? "✓" : "✗", roomy(` ${verdict}`));
      return node("tr", {},
        node("th", { scope: "row" }, roomy("expert "), String(place + 1)),
        node("td", { class: "num" }, percent(expert.weight), roomy(known(expert.alpha) ? ` α\u00a0${expert.alpha.toFixed(2)}` : "", "ci")),
        node("td", {}, word(vote.text), " ", node("span", { class: "ci" }, percent(vote.probability)), "\u00a0", sign),
        node("td", { class: "num" }, percent(vote.chosen)),
        labelled ? weightCell(token, place) : null);
    });
    const heads = ["expert", "#weight in the vote", "its own likeliest", "#gives this token"];
    return table("Every expert's vote", labelled ? [...heads, "#weight in training"] : heads, rows);
  }

  function note(kind) {
    const said = kind === "label"
      ? "Weight in training: the token's weight in the round that trained the expert; 1 is the average token's."
      : "An emitted token has no weight in training: only labelled training tokens have one.";
    return node("p", { class: "note" }, said);
  }

  function mount(root, { kind = "answer", experts = [], label = "Answer, token by token" } = {}) {
    const name = `tv-${++count}`;
    const tokens = [];
    let chosen = -1;
    const button = (text) => node("button", { type: "button", class: "tv-button" }, text);
    const [back, on, jump] = [button("‹ previous"), button("next ›"), button("next disagreement")];
    const row = node("div", { class: "tv-tokens", role: "tablist", "aria-label": label });
    const panel = node("div", { class: "tv-panel", role: "tabpanel", id: `${name}-panel`, tabindex: "0", hidden: "" });
    const tools = node("div", { class: "tv-tools" }, back, on, jump);
    root.replaceChildren(row, tools, panel);
    root.classList.add("tv");

    function refresh() {
      const total = tokens.filter(disagreed).length;
      // Not the attribute `disabled`: a button that is switched off while it has the focus loses it.
      back.setAttribute("aria-disabled", String(chosen <= 0));
      on.setAttribute("aria-disabled", String(chosen >= tokens.length - 1));
      jump.setAttribute("aria-disabled", String(total === 0));
      jump.textContent = `next disagreement (${total} of ${tokens.length})`;
    }

    function add(token) {
      const place = tokens.push(token) - 1;
      const found = marks(token, kind);
      const heard = [visible(token.text), known(token.probability) ? percent(token.probability) : "", ...found.map((mark) => mark.said)];
      const chip = node("button", {
        type: "button", role: "tab", id: `${name}-${place}`, class: ["tv-chip", ...found.map((mark) => mark.name)].join(" "),
        "aria-selected": "false", "aria-controls": `${name}-panel`, tabindex: place === 0 ? "0" : "-1",
        "aria-label": heard.filter(Boolean).join(", "),
      }, node("bdi", {}, visible(token.text)), ...found.map((mark) => node("sup", { "aria-hidden": "true" }, mark.sign)));
      chip.style.setProperty("--lift", shade(token, kind).toFixed(3));
      chip.addEventListener("click", () => select(place));
      row.append(chip);
      refresh();
    }

    function select(place, focus = false) {
      if (place < 0 || place >= tokens.length) return;
      const before = row.children[Math.max(0, chosen)];
      before.setAttribute("aria-selected", "false");
      before.tabIndex = -1;
      chosen = place;
      const chip = row.children[place];
      chip.setAttribute("aria-selected", "true");
      chip.tabIndex = 0;
      const token = tokens[place];
      const parts = [sentence(token, place, tokens.length, kind, experts)];
      const tables = [token.top.length ? mixtureTable(token) : null, token.votes.length ? expertTable(token, kind, experts) : null];
      parts.push(node("div", { class: "tv-tables" }, ...tables), note(kind));
      panel.replaceChildren(...parts);
      panel.setAttribute("aria-labelledby", chip.id);
      panel.hidden = false;
      refresh();
      if (focus) chip.focus();
    }

    row.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const to = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: tokens.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      select(Math.max(0, Math.min(tokens.length - 1, to)), true);
    });
    back.addEventListener("click", () => select(chosen - 1));
    on.addEventListener("click", () => select(chosen + 1));
    jump.addEventListener("click", () => {
      const places = tokens.flatMap((token, place) => (disagreed(token) ? [place] : []));
      select(places.find((place) => place > chosen) ?? places[0] ?? -1, true);
    });
    refresh();
    return { add, select, tokens };
  }

  return { mount, visible, percent, node };
})();
