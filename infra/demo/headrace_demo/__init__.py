"""The demo: real flights played through the whole platform, told live, with a closing report."""
