// A colour and a letter for each request. Colours repeat when there are many, so that the letter, which is written wherever the
// colour is, tells requests apart.

// After Paul Tol's and Okabe and Ito's sets, which people who see fewer colours can tell apart. The pages' style has two shades of
// each, for light and dark.
const COLOURS = 10;

class Palette {
  #of = new Map();
  #letters = 0;
  #used = Array.from({ length: COLOURS }, () => 0);
  #clock = 0;

  /** Colour and letter of a request, which stay while it is known. */
  of(id) {
    let mark = this.#of.get(id);
    if (!mark) {
      mark = { colour: this.#free(), letter: this.#letter() };
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

  /** The colour that was given longest ago. */
  #free() {
    const colour = this.#used.indexOf(Math.min(...this.#used));
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
