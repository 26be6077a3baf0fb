// Ours: what the widgets' html-manager needs to know about this book. Loaded between require.js and embed-amd.js.

// It would look for its icon fonts beside the page; they lie beside it.
requirejs.config({
  paths: { "@jupyter-widgets/html-manager/dist": new URL("html-manager", document.currentScript.src).href },
});

// It typesets equations by MathJax 2's interface; the book has MathJax 3.
window.addEventListener("load", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = {
      Queue: (job) => window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([job[2]])),
    };
  }
});
