/** A file to try suggestions in, for the walkthrough. */

import { commands, Position, Selection, window, workspace } from 'vscode';

const TEXT = `def read_lines(path):
    """Return the lines of a file without their line ends."""
    with open(path) as file:
        return [line.rstrip() for line in file]


def count_words(lines):
    """Return how often each word occurs."""
    counts = {}
    for line in lines:
        
    return counts
`;

/** Opens it, with the cursor in the empty line, and asks for a suggestion there. */
export async function openSample(): Promise<void> {
  const document = await workspace.openTextDocument({ language: 'python', content: TEXT });
  const editor = await window.showTextDocument(document);
  const line = TEXT.split('\n').findIndex((each) => each !== '' && each.trim() === '');
  const cursor = new Position(line, document.lineAt(line).text.length);
  editor.selection = new Selection(cursor, cursor);
  await commands.executeCommand('editor.action.inlineSuggest.trigger');
}
