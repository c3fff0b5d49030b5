"""The npm packages: installed as they are packed, and used in Node.js, in browsers and by the type checker."""
