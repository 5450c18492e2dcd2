'use strict';
(() => {
  const root = document.documentElement, said = document.getElementById('said');
  const dark = () => (root.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const theme = document.getElementById('theme');
  const show = () => { theme.setAttribute('aria-pressed', dark()); };
  theme.addEventListener('click', () => { root.dataset.theme = dark() ? 'light' : 'dark'; show(); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', show);
  theme.hidden = false;
  show();
  const select = code => {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand('copy') ? Promise.resolve() : Promise.reject();
  };
  for (const button of document.querySelectorAll('.copy')) {
    const code = button.parentElement.querySelector('code');
    button.hidden = false;
    button.addEventListener('click', () => {
      const write = navigator.clipboard ? navigator.clipboard.writeText(code.textContent).catch(() => select(code)) : select(code);
      const tell = (short, long) => {
        button.textContent = short;
        said.textContent = long;
        setTimeout(() => { button.textContent = 'Copy'; said.textContent = ''; }, 2000);
      };
      write.then(() => tell('Copied', 'Copied to the clipboard'), () => tell('Selected', 'Could not copy: the text is selected'));
    });
  }
})();
