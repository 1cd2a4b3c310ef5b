"""Small tasks to fill in, each with a way to find out whether what was filled in works.

Rule: data. A task's reference passes its check and each of its mutants fails it, which a test
holds; `check` uses what the rest of the program defines. A query's check is the rows it must give.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A program with a gap between `prefix` and `suffix`."""

    name: str
    language: str  # python, javascript, cpp or sql
    prefix: str
    reference: str
    suffix: str
    check: str
    mutants: tuple[str, ...]


# ruff: noqa: S608 - the queries are what is tested
_TABLES = """\
CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, city TEXT, age INTEGER);
INSERT INTO people VALUES (1, 'Ada', 'London', 36), (2, 'Alan', 'London', 41),
  (3, 'Grace', 'New York', 85), (4, 'Linus', 'Portland', 54), (5, 'Barbara', 'New York', 79);
CREATE TABLE orders (id INTEGER PRIMARY KEY, person INTEGER, amount INTEGER, day TEXT);
INSERT INTO orders VALUES (1, 1, 10, '2024-01-02'), (2, 1, 30, '2024-03-01'),
  (3, 2, 5, '2024-02-01'), (4, 3, 50, '2024-01-15'), (5, 3, 20, '2024-01-10');
"""

TASKS = (
    Task(
        "clamp",
        "python",
        "def clamp(value, low, high):\n"
        '    """Return `value`, but no less than `low` and no more than `high`."""\n'
        "    return ",
        "max(low, min(high, value))",
        "\n",
        "assert [clamp(v, 0, 10) for v in (-1, 0, 5, 10, 11)] == [0, 0, 5, 10, 10]",
        ("min(low, max(high, value))", "min(high, value)", "value"),
    ),
    Task(
        "count words",
        "python",
        "def count_words(text):\n"
        '    """Return how often each word of `text` occurs, as a dictionary."""\n'
        "    counts = {}\n"
        "    for word in text.split():\n"
        "        ",
        "counts[word] = counts.get(word, 0) + 1",
        "\n    return counts\n",
        "assert count_words('a b a') == {'a': 2, 'b': 1} and count_words('') == {}",
        ("counts[word] = 1", "counts[word] = counts.get(word, 1) + 1"),
    ),
    Task(
        "palindrome",
        "python",
        "def is_palindrome(text):\n"
        '    """Whether the letters of `text` are the same backwards, whatever their case."""\n'
        "    letters = [char.lower() for char in text if char.isalpha()]\n"
        "    return ",
        "letters == letters[::-1]",
        "\n",
        "assert is_palindrome('A man, a plan, a canal: Panama') and not is_palindrome('ab')\n"
        "assert is_palindrome('')",
        ("letters == letters", "text == text[::-1]", "bool(letters)"),
    ),
    Task(
        "merge intervals",
        "python",
        "def merge(intervals):\n"
        '    """Return pairs (start, end) sorted, and with those joined that overlap."""\n'
        "    merged = []\n"
        "    for start, end in sorted(intervals):\n"
        "        if merged and start <= merged[-1][1]:\n"
        "            ",
        "merged[-1] = (merged[-1][0], max(merged[-1][1], end))",
        "\n        else:\n            merged.append((start, end))\n    return merged\n",
        "assert merge([(5, 6), (1, 4), (2, 3), (4, 5)]) == [(1, 6)]\n"
        "assert merge([(1, 9), (2, 3)]) == [(1, 9)] and merge([]) == []",
        ("merged[-1] = (merged[-1][0], end)", "merged.append((start, end))", "pass"),
    ),
    Task(
        "sum of squares",
        "javascript",
        "/** Return the sum of the squares of `numbers`. */\n"
        "function sumOfSquares(numbers) {\n"
        "  return ",
        "numbers.reduce((sum, n) => sum + n * n, 0);",
        "\n}\n",
        "assert.equal(sumOfSquares([1, 2, 3]), 14); assert.equal(sumOfSquares([]), 0);",
        ("numbers.reduce((sum, n) => sum + n, 0);", "numbers.map((n) => n * n);"),
    ),
    Task(
        "unique",
        "javascript",
        "/** Return the items without repetitions, in the order of their first occurrence. */\n"
        "function unique(items) {\n"
        "  const seen = new Set();\n"
        "  return items.filter((item) => {\n"
        "    ",
        "if (seen.has(item)) return false;\n    seen.add(item);\n    return true;",
        "\n  });\n}\n",
        "assert.deepEqual(unique([3, 1, 3, 2, 1]), [3, 1, 2]); assert.deepEqual(unique([]), []);",
        ("return true;", "return seen.has(item);"),
    ),
    Task(
        "capitalise",
        "javascript",
        "/** Return `text` with the first letter of each word in upper case. */\n"
        "function capitalise(text) {\n"
        '  return text.split(" ").map((word) => ',
        "word.charAt(0).toUpperCase() + word.slice(1)",
        ').join(" ");\n}\n',
        "assert.equal(capitalise('to be or'), 'To Be Or'); assert.equal(capitalise(''), '');",
        ("word.toUpperCase()", "word", "word[0].toUpperCase() + word.slice(1)"),
    ),
    Task(
        "group by",
        "javascript",
        "/** Return a Map from key(item) to the items with that key, in their order. */\n"
        "function groupBy(items, key) {\n"
        "  const groups = new Map();\n"
        "  for (const item of items) {\n"
        "    const name = key(item);\n"
        "    ",
        "if (!groups.has(name)) groups.set(name, []);\n    groups.get(name).push(item);",
        "\n  }\n  return groups;\n}\n",
        "assert.deepEqual([...groupBy([1, 2, 3], (n) => n % 2)], [[1, [1, 3]], [0, [2]]]);",
        ("groups.set(name, [item]);", "groups.get(name).push(item);"),
    ),
    Task(
        "greatest common divisor",
        "cpp",
        "#include <cassert>\n\n"
        "// The greatest common divisor of a and b, both at least 0.\n"
        "long gcd(long a, long b) {\n"
        "    while (b != 0) {\n"
        "        ",
        "long rest = a % b;\n        a = b;\n        b = rest;",
        "\n    }\n    return a;\n}\n",
        "assert(gcd(12, 18) == 6); assert(gcd(7, 0) == 7); assert(gcd(1, 9) == 1);",
        ("b = a % b;", "a = b;\n        b = a % b;", "break;"),
    ),
    Task(
        "count vowels",
        "cpp",
        "#include <cassert>\n#include <string>\n\n"
        "// How many of the letters a, e, i, o and u are in text.\n"
        "int count_vowels(const std::string &text) {\n"
        "    int count = 0;\n"
        "    for (char letter : text) {\n"
        "        ",
        'if (std::string("aeiou").find(letter) != std::string::npos) ++count;',
        "\n    }\n    return count;\n}\n",
        'assert(count_vowels("education") == 5); assert(count_vowels("xyz") == 0);',
        ("++count;", "if (letter == 'a') ++count;"),
    ),
    Task(
        "binary search",
        "cpp",
        "#include <cassert>\n#include <vector>\n\n"
        "// The index of wanted in sorted, -1 where it is not there.\n"
        "int find(const std::vector<int> &sorted, int wanted) {\n"
        "    int low = 0, high = static_cast<int>(sorted.size()) - 1;\n"
        "    while (low <= high) {\n"
        "        int middle = low + (high - low) / 2;\n"
        "        if (sorted[middle] == wanted) return middle;\n"
        "        ",
        "if (sorted[middle] < wanted) low = middle + 1;\n        else high = middle - 1;",
        "\n    }\n    return -1;\n}\n",
        "for (int i = 0; i < 5; ++i) assert(find({1, 3, 5, 7, 9}, 2 * i + 1) == i);\n"
        "assert(find({1, 3}, 2) == -1); assert(find({}, 2) == -1);",
        (
            "if (sorted[middle] > wanted) low = middle + 1;\n        else high = middle - 1;",
            "++low;\n        --high;",
        ),
    ),
    Task(
        "largest difference",
        "cpp",
        "#include <algorithm>\n#include <cassert>\n#include <vector>\n\n"
        "// The largest of values minus the smallest; 0 where there are none.\n"
        "int spread(const std::vector<int> &values) {\n"
        "    if (values.empty()) return 0;\n"
        "    ",
        "auto [least, most] = std::minmax_element(values.begin(), values.end());\n"
        "    return *most - *least;",
        "\n}\n",
        "assert(spread({3, -2, 8}) == 10); assert(spread({4}) == 0); assert(spread({}) == 0);",
        ("return values.back() - values.front();", "return values[0];"),
    ),
    Task(
        "older than",
        "sql",
        _TABLES
        + "-- The names of the people over 50, by age, the oldest first.\nSELECT name FROM people ",
        "WHERE age > 50 ORDER BY age DESC",
        ";\n",
        "[('Grace',), ('Barbara',), ('Linus',)]",
        ("WHERE age > 50 ORDER BY age", "ORDER BY age DESC", "WHERE age < 50 ORDER BY age DESC"),
    ),
    Task(
        "people of a city",
        "sql",
        _TABLES + "-- How many people there are in each city, by the city's name.\n"
        "SELECT city, COUNT(*) FROM people ",
        "GROUP BY city ORDER BY city",
        ";\n",
        "[('London', 2), ('New York', 2), ('Portland', 1)]",
        ("ORDER BY city", "GROUP BY name ORDER BY city", "GROUP BY city ORDER BY city DESC"),
    ),
    Task(
        "total of orders",
        "sql",
        _TABLES + "-- The total of each person's orders, 0 for who has none, by name.\n"
        "SELECT people.name, COALESCE(SUM(orders.amount), 0) FROM people\n",
        "LEFT JOIN orders ON orders.person = people.id GROUP BY people.id",
        "\nORDER BY people.name;\n",
        "[('Ada', 40), ('Alan', 5), ('Barbara', 0), ('Grace', 70), ('Linus', 0)]",
        (
            "JOIN orders ON orders.person = people.id GROUP BY people.id",
            "LEFT JOIN orders ON orders.id = people.id GROUP BY people.id",
        ),
    ),
    Task(
        "latest order",
        "sql",
        _TABLES + "-- The day and the amount of each person's latest order, by person.\n"
        "SELECT person, day, amount FROM orders AS latest WHERE day = (\n  ",
        "SELECT MAX(day) FROM orders WHERE orders.person = latest.person",
        "\n) ORDER BY person;\n",
        "[(1, '2024-03-01', 30), (2, '2024-02-01', 5), (3, '2024-01-15', 50)]",
        (
            "SELECT MAX(day) FROM orders",
            "SELECT MIN(day) FROM orders WHERE orders.person = latest.person",
        ),
    ),
)
