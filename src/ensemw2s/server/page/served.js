"use strict";
/* The page of `ensemw2s serve`: asks the server's own API and shows the answer while it comes. */
(() => {
  const { node, percent, mount } = TokenViewer;
  const field = (id) => document.getElementById(id);
  const model = document.body.dataset.model;
  const PRINTABLE = /^[\x21-\x7e]*$/;
  const READING = "reading the question …";
  let running = null; // the AbortController of the answer that is on its way
  let members = []; // the experts as /v1/models tells them
  let likeliest = 5; // tokens of the mixture to be told

  class Problem extends Error {}

  function headers() {
    const key = field("key")?.value.trim() ?? "";
    if (!PRINTABLE.test(key)) throw new Problem("the key has characters that no key has: give it as it was given to you");
    return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  }

  async function call(path, options) {
    const response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers: headers() }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Problem("the server cannot be reached: is it still running?");
    });
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    throw new Problem(body?.error?.message ?? `the server answered with status ${response.status}`);
  }

  function tell(error) {
    field("problem").textContent = error ? (error instanceof Problem ? error.message : String(error)) : "";
    field("problem").hidden = !error;
  }

  // ---- what is asked

  function number(id) {
    const text = field(id).value.trim();
    if (!text && !field(id).validity.badInput) return null;
    if (!field(id).validity.valid) throw new Problem(`${field(id).labels[0].textContent}: ${field(id).validationMessage}`);
    return Number(text);
  }

  function request() {
    const text = field("text").value;
    if (!text.trim()) throw new Problem("there is no question: write one");
    const common = { model, stream: true, experts: true, temperature: number("temperature") ?? 0 };
    const [tokens, seed] = [number("tokens"), number("seed")];
    if (tokens !== null) common.max_tokens = tokens;
    if (seed !== null) common.seed = seed;
    if (field("mode").value === "completion") {
      return { path: "v1/completions", body: { ...common, prompt: text, logprobs: likeliest } };
    }
    const messages = [{ role: "user", content: text }];
    return { path: "v1/chat/completions", body: { ...common, messages, logprobs: true, top_logprobs: likeliest } };
  }

  // ---- what comes back

  async function* chunks(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Problem(chunk.error.message);
        yield chunk;
      }
    }
    throw new Problem("the answer broke off: the server closed the connection");
  }

  function tokensOf(choice) {
    return (choice.experts ?? []).map((told) => {
      const top = (told.likeliest ?? []).map((one) => ({ text: one.token, probability: one.probability }));
      const votes = told.votes.map((vote) => ({
        text: vote.token, probability: vote.probability, chosen: vote.chosen_probability, agrees: vote.token_id === told.token_id,
      }));
      const first = told.likeliest?.length ? told.likeliest[0].token_id === told.token_id : null;
      return { text: told.token, probability: told.probability, likeliest: first, top, votes };
    });
  }

  async function answer() {
    const { path, body } = request();
    field("answer").textContent = "";
    let viewer = null;
    let ended = null;
    try {
      const response = await call(path, { method: "POST", body: JSON.stringify(body), signal: running.signal });
      for await (const chunk of chunks(response)) {
        const choice = chunk.choices[0];
        if (!choice) continue;
        field("answer").append(choice.text ?? choice.delta?.content ?? "");
        for (const token of tokensOf(choice)) {
          const experts = token.votes.map((_, place) => ({ ...members[place], weight: choice.experts[0].votes[place].weight }));
          viewer ??= mount(field("viewer"), { kind: "answer", experts, label: "Answer, token by token" });
          viewer.add(token);
          field("found").hidden = false;
        }
        ended = choice.finish_reason ?? ended;
        field("status").textContent = `${viewer?.tokens.length ?? 0} tokens`;
      }
      finish(viewer, ended === "length" ? "cut at the limit" : "done");
    } catch (error) {
      finish(viewer, error.name === "AbortError" ? "stopped" : "failed");
      throw error;
    }
  }

  function finish(viewer, how) {
    const count = viewer?.tokens.length ?? 0;
    field("status").textContent = `${how}, ${count} token${count === 1 ? "" : "s"}`;
    if (!viewer) field("viewer").replaceChildren();
    viewer?.select(0);
  }

  function working(now) {
    field("go").setAttribute("aria-disabled", String(now));
    field("stop").setAttribute("aria-disabled", String(!now));
  }

  // ---- who answers

  async function introduce() {
    const told = await (await call(`v1/models/${encodeURIComponent(model)}`, { signal: running?.signal })).json();
    members = told.members ?? [];
    likeliest = Math.min(likeliest, told.max_logprobs);
    field("about").textContent = `${told.experts} expert${told.experts === 1 ? "" : "s"}, rule ${told.rule}, context of ${told.context_length} tokens`;
    const trained = members.some((one) => one.error !== null && one.error !== undefined);
    const heads = ["expert", "weight in the vote", "alpha", ...(trained ? ["error in training", "effective sample size"] : [])];
    const rows = members.map((one, place) =>
      node("tr", {}, node("th", { scope: "row" }, `expert ${place + 1}`), ...[
        percent(one.weight), one.alpha.toFixed(3),
        ...(trained ? [percent(one.error), one.effective_sample_size?.toFixed(0) ?? "–"] : []),
      ].map((text) => node("td", { class: "num" }, text))));
    const head = node("tr", {}, ...heads.map((text, place) => node("th", { scope: "col", class: place ? "num" : null }, text)));
    field("members-table").replaceChildren(node("thead", {}, head), node("tbody", {}, ...rows));
    field("members-note").textContent = trained
      ? "Error: weighted by what the expert was trained on. Effective sample size: how many samples its training weights stand for; few: it was trained on what the experts before it got wrong."
      : "This model's folder holds no record of boosting rounds.";
    field("members").hidden = false;
  }

  async function submit(event) {
    event.preventDefault();
    if (running) return; // also while the model introduces itself: one question at a time
    running = new AbortController();
    tell(null);
    working(true);
    field("status").textContent = READING;
    try {
      if (field("members").hidden) await introduce();
      await answer();
    } catch (error) {
      const stopped = error.name === "AbortError";
      if (field("status").textContent === READING) finish(null, stopped ? "stopped" : "failed");
      if (!stopped) tell(error);
    } finally {
      running = null;
      working(false);
    }
  }

  field("ask").addEventListener("submit", submit);
  field("stop").addEventListener("click", () => running?.abort());
  field("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) field("ask").requestSubmit();
  });
  if (!("locked" in document.body.dataset)) introduce().catch(tell);
})();
