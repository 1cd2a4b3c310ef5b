// Bundles the extension into dist/, or with --tests its unit tests into build/test/.
import { readdirSync } from 'node:fs';
import { build } from 'esbuild';

const tests = process.argv.includes('--tests');
const production = process.argv.includes('--production');

await build({
  bundle: true,
  platform: 'node',
  target: 'node20',
  logLevel: 'warning',
  ...(tests
    ? {
        entryPoints: readdirSync('test').map((name) => `test/${name}`),
        format: 'esm',
        outdir: 'build/test',
        outExtension: { '.js': '.mjs' },
      }
    : {
        entryPoints: ['src/extension.ts'],
        format: 'cjs',
        outfile: 'dist/extension.js',
        external: ['vscode'],
        minify: production,
        sourcemap: !production,
      }),
});
