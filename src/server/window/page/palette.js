// A colour and a letter for each request. Requests that are there at the same time have different colours, as long as there are
// enough; later ones repeat them, so the letter, which is written wherever the colour is, tells requests apart.

// After Paul Tol's and Okabe and Ito's sets, which people who see fewer colours can mostly tell apart, and two more that are far from
// those as such people see them. The page's style has them; grey is left for what is cached.
const COLOURS = 12;

class Palette {
  #of = new Map();
  #letters = 0;
  #used = Array.from({ length: COLOURS }, () => 0);
  #clock = 0;

  /** Gives requests that are new a colour and a letter, in the order in which they came. */
  meet(ids) {
    const live = [...ids];
    for (const id of live) {
      if (this.#of.has(id)) continue;
      const taken = new Set(live.map((other) => this.#of.get(other)?.colour));
      this.#of.set(id, { colour: this.#free(taken), letter: this.#letter() });
    }
  }

  /** Colour and letter of a request, which stay while it is known. */
  of(id) {
    let mark = this.#of.get(id);
    if (!mark) {
      mark = { colour: this.#free(new Set()), letter: this.#letter() };
      this.#of.set(id, mark);
    }
    return mark;
  }

  letter(id) {
    return this.of(id).letter;
  }

  colour(id) {
    return `var(--c${this.of(id).colour})`;
  }

  /** Everything begins anew. */
  clear() {
    this.#of.clear();
    this.#letters = 0;
    this.#used.fill(0);
  }

  /** The colour that was given longest ago, of those that are not taken. */
  #free(taken) {
    const rank = (used, colour) => used + (taken.has(colour) ? this.#clock + 1 : 0);
    const ranks = this.#used.map(rank);
    const colour = ranks.indexOf(Math.min(...ranks));
    this.#used[colour] = ++this.#clock;
    return colour;
  }

  /** A to Z, then AA, AB and so on. */
  #letter() {
    let n = this.#letters++;
    let letters = "";
    do {
      letters = String.fromCharCode(65 + (n % 26)) + letters;
      n = Math.floor(n / 26) - 1;
    } while (n >= 0);
    return letters;
  }
}
