import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Offer } from '../src/acceptance';

const insert = (offset: number, text: string, replaced = 0) => ({ offset, replaced, text });

test('a word of the suggestion brings it further, counted in UTF-16 units from its start', () => {
  const offer = new Offer(10, '😀 + value');
  assert.equal(offer.edited(insert(10, '😀 +')), 'further');
  assert.equal(offer.done, 4);
  assert.equal(offer.edited(insert(14, ' va')), 'further');
  assert.equal(offer.done, 7);
});

test('the last part makes it whole', () => {
  const offer = new Offer(0, 'one two');
  assert.equal(offer.edited(insert(0, 'one')), 'further');
  assert.equal(offer.edited(insert(3, ' two')), 'whole');
});

test('accepting all at once is whole, also where the popup had chosen the beginning', () => {
  assert.equal(new Offer(5, 'a + b').edited(insert(5, 'a + b')), 'whole');
  assert.equal(new Offer(5, 'append(x)', 3).edited(insert(5, 'append(x)', 3)), 'whole');
});

test("accepting the popup's entry is none of the suggestion", () => {
  assert.equal(new Offer(5, 'append(x)', 0, 'append').edited(insert(5, 'append')), 'diverged');
  assert.equal(new Offer(5, 'append(x)', 0, 'append').edited(insert(5, 'appe')), 'further');
  assert.equal(new Offer(5, 'append', 0, 'append').edited(insert(5, 'append')), 'whole');
});

test('a part after typing goes on from there', () => {
  const offer = new Offer(0, 'value + 1');
  assert.equal(offer.edited(insert(0, 'v')), 'further');
  assert.equal(offer.edited(insert(1, 'alue')), 'further');
  assert.equal(offer.done, 5);
});

for (const [what, edit] of [
  ['other text', insert(0, 'other')],
  ['another place', insert(3, 'value')],
  ['a deletion', insert(0, '', 2)],
  ['more than the suggestion', insert(0, 'value + 1 and more')],
] as const) {
  test(`${what} is no acceptance`, () => {
    assert.equal(new Offer(0, 'value + 1').edited(edit), 'diverged');
  });
}
