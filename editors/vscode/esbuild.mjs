// Bundles the extension into dist/, or with --tests its unit tests into build/test/.
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';

const tests = process.argv.includes('--tests');
const production = process.argv.includes('--production');

const { metafile } = await build({
  bundle: true,
  metafile: true,
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

if (!tests) {
  writeFileSync('dist/NOTICES.txt', notices(Object.keys(metafile.inputs)));
}

// The licences of the packages in the bundle, as they ask for.
function notices(inputs) {
  const folders = inputs.map((path) => /^(?:.*\/)?node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0]);
  return [...new Set(folders)]
    .filter((folder) => folder !== undefined)
    .sort()
    .map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'));
      const file = readdirSync(folder).find((each) => /^licen[sc]e/i.test(each));
      const text = file && existsSync(`${folder}/${file}`) ? readFileSync(`${folder}/${file}`, 'utf8') : license;
      return `${name} ${version}\n\n${text.trim()}\n`;
    })
    .join('\n----\n\n');
}
