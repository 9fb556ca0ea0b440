#!/usr/bin/env python3
"""Write tests/fixtures/templates/language.json: small templates that go through Jinja's language, and what they render.

    python tools/make_language_fixtures.py [--out tests/fixtures/templates/language.json]

Needs transformers and jinja2. Every filter, test, function and statement of Jinja 3.1 and every method a sandboxed template
may call meets values of every type. `expected` is what the environment of transformers' chat templates makes of it, null
where it fails; `error` is then the kind of failure (see `kind`). Templates whose text depends on addresses, dates or chance are left out.
"""

import argparse
import json
import re
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

DATA = {
    "text": "  Hello, wörld! It's <b>bold</b> & \"quoted\"\n\nline two\tTab  ",
    "word": "straße",
    "title": "the quick-brown (fox) jumped",
    "csv": "a,b,,c",
    "empty": "",
    "digits": "42",
    "lines": "one\ntwo\r\nthree\n\nfive\n",
    "n": 7,
    "neg": -3,
    "zero": 0,
    "f": 2.5,
    "big": 250000000000000000000,
    "huge": 115792089237316195423570985008687907853269984665640564039457584007913129639935,
    "yes": True,
    "no": False,
    "nothing": None,
    "list": [3, 1, 2],
    "mixed": [1, "a", None, 2.5, True, [1], {"k": "v"}],
    "words": ["pear", "Apple", "fig", "apple"],
    "nested": [[1, 2], [3, 4]],
    "emptylist": [],
    "d": {"b": 2, "a": 1, "C": 3},
    "users": [
        {"name": "Zoe", "age": 30, "tags": ["x"], "on": True},
        {"name": "adam", "age": 25, "tags": [], "on": False},
        {"name": "Bob", "age": 30, "tags": ["y", "z"], "on": True, "nick": "bobby"},
    ],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}],
}
VALUES = ["text", "word", "empty", "digits", "n", "neg", "f", "big", "huge", "yes", "nothing", "missing", "list", "mixed", "words", "d", "users"]

FILTERS = """
abs|attr('upper')|attr('x')|batch(2)|list|batch(2, 'z')|list|capitalize|center(20)|center|count|d('x')|d('x', true)|default|default(1, boolean=true)
dictsort|dictsort(true)|dictsort(false, 'value')|dictsort(by='value', reverse=true)|e|escape|forceescape|filesizeformat|filesizeformat(true)
first|last|float|float(1.5)|format(1)|format(1, 2)|groupby('age')|list|groupby('age', default=0)|list|indent|indent(2)|indent(2, true)|indent(2, true, true)
indent('--')|indent(width=1, first=true)|int|int(9)|int(0, 16)|int(default=3, base=2)|items|list|join|join(', ')|join(', ', attribute='name')|length|list
lower|map('upper')|list|map(attribute='name')|list|map(attribute='nick', default='none')|list|map('string')|join('-')|max|min|max(attribute='age')
min(attribute='age')|max(case_sensitive=true)|reject|list|reject('string')|list|reject('none')|list|rejectattr('on')|list|rejectattr('age', 'equalto', 30)|list
replace('l', 'L')|replace('l', 'L', 1)|replace('', '-')|reverse|list|reverse|string|round|round(1)|round(-1)|round(1, 'ceil')|round(0, 'floor')|safe
select|list|select('number')|list|select('string')|list|selectattr('on')|list|selectattr('age', 'gt', 26)|list|selectattr('nick', 'defined')|list
slice(2)|list|slice(2, 'z')|list|sort|sort(true)|sort(reverse=true)|sort(case_sensitive=true)|sort(attribute='age')|sort(attribute='age,name')|string
striptags|sum|sum(attribute='age')|sum(start=10)|title|tojson|tojson(indent=2)|tojson(ensure_ascii=true)|tojson(separators=(',', ':'))|tojson(sort_keys=true)
tojson(indent='\\t', sort_keys=true)|trim|trim(' H')|truncate(9)|truncate(9, true)|truncate(9, false, '')|truncate(9, true, '..', 0)|unique|list|unique(true)|list
unique(attribute='age')|list|upper|urlencode|wordcount|wordwrap(10)|wordwrap(4, true)|wordwrap(4, false)|wordwrap(8, wrapstring='|')|xmlattr|xmlattr(false)
""".strip()

TESTS = """
boolean callable defined divisibleby(3) eq(7) ==(7) equalto(7) escaped even false filter float ge(3) gt(3) greaterthan(3) in([7,2.5]) integer
iterable le(3) lt(3) lessthan(3) lower mapping ne(7) none number odd sameas(true) sequence string test true undefined upper
""".split()

METHODS = """
capitalize() casefold() center(30,'*') count('l') endswith('x') endswith(('x','  ')) expandtabs(4) find('l') find('l',5) find('l',3,5) index('l') isalnum()
isalpha() isascii() isdecimal() isdigit() isidentifier() islower() isnumeric() isprintable() isspace() istitle() isupper() join(['a','b'])
join('xyz') ljust(30,'.') lower() lstrip() lstrip('_H_') partition('l') removeprefix('__') removesuffix('__') replace('l','_') replace('l','_',1) rfind('l')
rindex('l') rjust(30) rpartition('l') rsplit() rsplit('l',1) rsplit(none,1) rstrip() rstrip('_') split() split('l') split('l',1) split(none,1)
split(',') splitlines() splitlines(true) startswith('__') startswith(('a','__')) strip() strip('_') swapcase() title() upper() zfill(12) format() format_map({})
append(1) extend([1]) insert(0,1) pop() remove(1) clear() sort() reverse() copy() index(1) count(1) get('a') get('a',5) get('zz') get('zz',5) items()
keys() values() update({}) setdefault('a',1) popitem() bit_length() conjugate() __class__ __len__()
""".replace("_H_", " H").replace("__", "  ").split()

SNIPPETS = r"""
{{ '%s is %d years, %05.1f %x %%' % ('Al', 7, 2.25, 255) }}
{{ '%(a)s-%(b)03d' % {'a': 1, 'b': 2} }}
{{ '{} {1!r}'.format(1) }}
{{ '{} {} {x}'.format(1, 'b', x=2) }}
{{ '{0} {1!r} {x:>6} {y:.2f} {z:,} {0:^9} {w:+d} {v:#x} {u:%}'.format('a', 'b', x='c', y=3.14159, z=1234567, w=5, v=255, u=0.25) }}
{{ '{a[b]} {c.real}'.format(a={'b': 1}, c=3) }}
{{ '{:{}}'.format('x', 5) }}|{{ '{:*<5}'.format(7) }}|{{ '{{}}'.format() }}
{{ '{a}'.format_map({'a': 3}) }}
{{ '%s' % (list,) }} {{ '%r' % word }} {{ '%s' % nothing }} {{ '%.3s|%5s|%-5s|' % ('abcdef', 'x', 'y') }}
{{ '%i %o %X %e %g %c %c' % (5, 8, 255, 12345.678, 0.0001, 65, 'z') }}
{{ 'a' 'b' ~ 'c' }} {{ 1 ~ none ~ true ~ 2.0 }} {{ [1] ~ {'a': 1} }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 7 / 2 }} {{ 4 / 2 }}
{{ big }} {{ -big }} {{ big | tojson }} {{ [big] }} {{ big == 250000000000000000000 }} {{ big > 1 }} {{ big + 1 }} {{ big * 2 }} {{ big // 3 }} {{ big % 7 }}
{{ huge }} {{ -huge }} {{ huge | tojson }} {{ [huge, -huge] | sort }} {{ huge == huge }} {{ huge > big }} {{ huge < 1 }} {{ 1.5 < huge }} {{ huge is odd }} {{ huge | string | length }}
{{ huge is integer }} {{ huge is number }} {{ huge is float }} {{ '%d' % huge }} {{ '{:,}'.format(huge) }} {{ huge | float }} {{ huge | abs }} {{ -huge | abs }} {{ huge in [1, huge] }} {{ {huge: 1}[huge] }}
{{ '123456789012345678901234567890123456789012345678901234567890' | int }} {{ ' -0012 ' | int }} {{ '1_000' | int }} {{ '0x1f' | int(0, 16) }} {{ 'zz' | int(5) }} {{ '42.9' | int }}
{{ 18446744073709551615 }} {{ 18446744073709551616 }} {{ 1e16 }} {{ 1e15 }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 123456789.123456789 }} {{ 1_000 }} {{ 0xff }} {{ 0b101 }} {{ 0o17 }}
{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ (1, 'a') == (1, 'a') }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' in 'cat' }} {{ 1 not in [2] }} {{ 'a' in d }} {{ none == false }}
{{ {} == [] }} {{ {'a': [1, {'b': 2}]} == {'a': [1, {'b': 2}]} }} {{ 'x' * 3 }} {{ [1] * 2 }} {{ (1,) + (2,) }} {{ [] + [1] }}
{{ text[2:7] }} {{ text[-5:] }} {{ text[::-1] }} {{ text[::2] }} {{ list[1:] }} {{ list[-1] }} {{ list[10] }} {{ d['a'] }} {{ d.a }} {{ d['zz'] }} {{ d.zz }} {{ word[4] }} {{ word[-1] }} {{ (1,2,3)[1:] }}
{{ users[0].name }} {{ users[0]['name'] }} {{ users.0.name }} {{ users[-1].tags[1] }} {{ users[5] is defined }}
{{ 'a' if yes else 'b' }} {{ 'a' if no }} {{ 'a' if no else 'b' if no else 'c' }} {{ (yes and no) or 'z' }} {{ not yes }} {{ 1 and 2 }} {{ 0 or '' or 'x' }} {{ not not 3 }}
{{ none }} {{ None }} {{ True }} {{ true }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }} {{ {'a': 1, 2: (3, 4), none: [true, 2.0]} }} {{ "it's" }} {{ ["it's", 'say "x"', "it's \"x\""] }}
{{ ['\n\t\\', 'é', '\u200b', '\x00', '😀'] }} {{ ['\n\t\\', 'é', '\u200b', '\x00', '😀', '\x7f'] | tojson }} {{ ['é', '😀', '\x7f'] | tojson(ensure_ascii=true) }}
{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}|{% else %}none{% endfor %}
{% for x in emptylist %}{{ x }}{% else %}none{% endfor %}{% for x in missing %}{{ x }}{% else %}none{% endfor %}
{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}{{ loop.last }} {% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for (a, b) in nested %}{{ a }}{{ b }}{% endfor %}
{% for x in words %}{{ loop.cycle('odd', 'even') }}{{ loop.changed(x | lower) }} {% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{% endfor %}{% for x in [[1], [1]] %}{{ loop.changed(x, 'a') }}{% endfor %}
{% for x in list %}{{ loop.cycle() }}{% endfor %}
{% for n in tree recursive %}{{ n.v }}{% if n.kids %}({{ loop(n.kids) }}){% endif %}{% endfor %}
{% for n in tree recursive %}{% set s = loop(n.kids) if n.kids else '' %}[{{ n.v }}{{ s | length }}{{ s }}]{% endfor %}
{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if x == 2 %}{% break %}{% endif %}{% endfor %}
{% for x in list %}{% for y in list %}{{ loop.index }}{{ loop.depth }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %}{{ range(1, 10, 3) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}{{ range(3) }}{{ range(10)[2:5] | list }}{{ 3 in range(5) }}
{% set x = 1 %}{% for i in list %}{% set x = i %}{% endfor %}{{ x }}{% set ns = namespace(x=1, y='a') %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e) = [3, 4] %}{{ c }}{{ e }}{% set t = 1, 2 %}{{ t }}
{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x | length }}{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, 3, c=4) }}|{{ m(1, 2, 3, 4, 5) }}|{{ m(1, z=9) }}|{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}
{% macro m(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ m() }}{{ m(none) }}{{ m(1) | length }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}in {{ n }}{% endcall %}{% macro w(x) %}{{ caller(x, 2) }}{% endmacro %}{% call(a, b) w(1) %}{{ a }}-{{ b }}{% endcall %}
{% macro m() %}{{ caller is defined }}{{ caller() if caller else 'none' }}{% endmacro %}{{ m() }}{% call m() %}x{% endcall %}
{% macro f(k) %}{{ k }}{% if k > 0 %},{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% filter upper %}abc {{ word }}{% endfilter %}{% filter replace('a', 'b') | trim %} aa {% endfilter %}
{% with a = 1, b = a %}{{ a }}{{ b is defined }}{% endwith %}{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}
{% raw %}{{ x }} {% if %}{% endraw %}{# comment #}{%- raw -%} {{ y }} {%- endraw -%} z
{% autoescape false %}{{ '<b>' }}{% endautoescape %}
{% generation %}a{{ n }}{% endgeneration %}{% block body %}x{% endblock %}{% block other scoped %}y{% endblock other %}
{% if no %}a{% elif nothing %}b{% elif n %}c{% else %}d{% endif %}{% if missing %}a{% else %}b{% endif %}{% if emptylist or empty or zero %}a{% else %}b{% endif %}
{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ dict([('k', 'v')]) }}{{ dict(**d) }}{{ dict(a=1) == {'a': 1} }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}
{% set j = joiner(', ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}{% set k = joiner() %}{{ k() }}a{{ k() }}b
{% set gen = list | map('string') %}{{ gen | list }}{{ gen | list }}{% if gen %}true{% else %}false{% endif %}
{% set sel = users | selectattr('name', 'equalto', 'nobody') %}{% if sel %}true{% else %}false{% endif %}{{ sel | list | length }}{{ sel | first is defined }}
{{ users | selectattr('on') | map(attribute='name') | join(',') }}{{ users | map(attribute='tags') | map('length') | sum }}{{ users | map(attribute='tags') | sum(start=[]) }}
{{ list | map('string') | length }}
{{ (list | map('string'))[0] }}
{{ list | map('string') | first }}{{ list | select('odd') | first }}{{ list | select('gt', 99) | first is defined }}
{{ list | map('string') | last }}
{{ nothing | select | list }}{{ nothing | reject('string') | list }}{{ nothing | map('upper') | list }}{{ nothing | selectattr('a') | list }}{{ nothing | rejectattr('a', 'eq', 1) | list }}{{ nothing | map(attribute='x') | join }}{{ missing | map(attribute='x') | list }}{{ zero | select | list }}{{ empty | map('upper') | list }}{{ no | reject | list }}
{% for x in nothing | selectattr('a') %}{{ x }}{% else %}empty{% endfor %}
{% for g in users | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join(',') }};{% endfor %}{% for age, group in users | groupby('age') %}{{ age }}{{ group | length }}{% endfor %}{{ (users | groupby('age'))[0][0] }}{{ (users | groupby('age') | first).grouper }}
{% for row in range(7) | batch(3, 0) %}{{ row }}{{ loop.length }}{% endfor %}{% for row in range(7) | slice(3) %}{{ row }}{% endfor %}
{% for k, v in d | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in d | items %}{{ k }}{{ v }}{% endfor %}{% for x in list | reverse %}{{ x }}{% endfor %}{% for c in word %}{{ c }}.{% endfor %}
{{ d | items | list }}{{ d.items() | list }}{{ d.keys() | list }}{{ d.values() | list | sort }}{{ 'a' in d.keys() }}{{ d.items() | length }}{{ d | length }}{{ d | list }}{{ d.keys() | first }}
{{ d.items() }}
{{ d.keys() }} {{ d.values() }}
{{ list.append(1) }}
{% do list.append(1) %}
{{ missing.a }}
{{ missing }}{{ missing is defined }}{{ missing is undefined }}{{ missing | default('x') }}{{ missing == empty }}
{{ missing.a is defined }}
{{ users[0].missing }}{{ users[0].missing is defined }}{{ d.missing | default('y') }}
{{ nothing.x }}
{{ nothing.x is defined }}{{ nothing['x'] is defined }}{{ n.x is defined }}{{ word.x is defined }}
{{ 'a' + 1 }}
{{ 1 + none }}
{{ list + 'a' }}
{{ none | length }}
{{ raise_exception('boom') }}
{{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is not none }} {{ n is odd }} {{ word is in ['straße'] }} {{ n is sameas 7 }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ 'x' is test }} {{ range is callable }} {{ n is gt 3 and n is lt 9 }}
{{ text is string }}{{ text is iterable }}{{ text is sequence }}{{ d is mapping }}{{ d is sequence }}{{ d is iterable }}{{ n is number }}{{ yes is number }}{{ yes is integer }}{{ yes is boolean }}{{ f is float }}{{ (list | map('string')) is iterable }}{{ (list | map('string')) is sequence }}
{{ 'ABC' is upper }}{{ 'abc' is lower }}{{ 'aBc' is upper }}{{ '123' is upper }}{{ n is eq 7 }}{{ n is ne 7 }}{{ n is ge 7 }}{{ n is le 6 }}
{{ [1, 2, 3] | sum }} {{ [1.5, 2] | sum }} {{ ['a'] | join }} {{ [1, none, 'x'] | join('-') }} {{ [[1], [2]] | sum(start=[]) }}
{{ [3, 1, 2] | sort | first }}{{ ['b', 'A', 'c'] | sort }}{{ ['b', 'A', 'c'] | sort(case_sensitive=true) }}{{ [('b', 1), ('a', 2)] | sort }}{{ users | sort(attribute='tags.0') | map(attribute='name') | list if false else '' }}
{{ 'hello world' | title }}{{ "it's o'neil" | title }}{{ "it's o'neil".title() }}{{ 'HELLO' | capitalize }}{{ 'ǆ' | upper }}{{ 'ΑΣ' | lower }}{{ 'ß'.upper() }}{{ 'İ'.lower() | length }}
{{ 1000 | filesizeformat }} {{ 1 | filesizeformat }} {{ 0 | filesizeformat }} {{ 1500000 | filesizeformat }} {{ 1048576 | filesizeformat(true) }} {{ 1e30 | filesizeformat }} {{ '123' | filesizeformat }} {{ 999 | filesizeformat }}
{{ 'a long text that wraps well-known hyphen-ated words supercalifragilistic' | wordwrap(12) }}|{{ 'a b  c   d' | wordwrap(3) }}|{{ 'aaaa bbbb' | wordwrap(2) }}|{{ 'one-two-three four' | wordwrap(7) }}|{{ 'x' | wordwrap }}|{{ '' | wordwrap }}|{{ 'a\n\nb' | wordwrap(5) }}
{{ 'supercalifragilistic word' | wordwrap(8, false) }}|{{ 'ab-cd-ef' | wordwrap(4, break_on_hyphens=false) }}|{{ '  lead and trail  ' | wordwrap(8) }}
{{ {'class': 'a b', 'id': none, 'x': missing, 'n': 1, 'q': '"<'} | xmlattr }}|{{ {} | xmlattr }}|{{ {'a': 1} | xmlattr(false) }}
{{ {'a b': 1} | xmlattr }}
{{ '<p>a <b>b</b>\n c</p><!-- x > y -->d &amp; &lt; &#39; &#x41; e < f' | striptags }}|{{ 'a > b' | striptags }}|{{ '1 < 2' | striptags }}
{{ 'a b/c?d=é&f' | urlencode }} {{ {'a b': 'c/d', 'e': 1} | urlencode }} {{ [('x', 'y z')] | urlencode }} {{ 5 | urlencode }}
{{ 'foo bar baz' | truncate(5) }}|{{ 'foo bar baz qux' | truncate(9) }}|{{ 'foo bar baz qux' | truncate(11, leeway=0) }}|{{ 'foobarbazqux' | truncate(8, false, '…', 0) }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 1234 | round(-2) }} {{ 2.1 | round(method='ceil') }} {{ 2.9 | round(0, 'floor') | int }} {{ 5 | round }} {{ 2.55 | round(1, 'floor') }}
{{ 'a\nb\n' | indent }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ '' | indent(3, true) }}|{{ 'a\r\nb' | indent(1) }}
{{ ['a', 'B', 'b', 'A'] | unique | list }} {{ ['a', 'B', 'b', 'A'] | unique(case_sensitive=true) | list }} {{ [1, 1.0, true, 2] | unique | list }}
{{ ['b', 'A'] | min }} {{ ['b', 'A'] | max }} {{ [] | min is defined }} {{ [3, 1.5] | max }} {{ 'hello' | max }} {{ d | max }}
{{ 'abc' | list }} {{ 'abc' | first }} {{ 'abc' | last }} {{ 'abc' | reverse }} {{ d | first }} {{ d | last }} {{ [] | first is defined }} {{ [] | last is defined }} {{ (1, 2) | reverse | list }} {{ range(3) | last }}
{{ 'ab' | map('upper') | join('-') }} {{ [1, 2] | map('multiply') | list if false }}
{{ ['a', 'b'] | map('replace', 'a', 'x') | list }} {{ ['1', '2'] | map('int') | sum }} {{ [' a '] | map('trim') | list }} {{ [[3, 1]] | map('sort', reverse=true) | list }}
{{ users | map(attribute='name') | map('lower') | sort | join(' ') }} {{ users | rejectattr('nick', 'defined') | map(attribute='name') | list }} {{ users | selectattr('tags') | list | length }} {{ users | map(attribute='tags.0', default='-') | list }}
{{ [1, 2, 3, 4] | select('divisibleby', 2) | list }} {{ ['a', 'bb'] | select('in', 'abb') | list }} {{ [none, 0, ''] | select('none') | list }} {{ [{'a': {'b': 1}}, {'a': {}}] | selectattr('a.b', 'defined') | list }}
{{ 'x'.join(list | map('string')) }} {{ ','.join(d) }} {{ 'a-b'.split('-') | join('+') }} {{ 'key: value'.partition(':') }} {{ 'a b c'.split(' ', 1) }}
{{ '3' | int + 4 }} {{ n | string + 'x' }} {{ -n | abs }} {{ (n, f) | sum }} {{ n | float }} {{ 'x' | float }} {{ 'inf' | float }} {{ none | int }} {{ none | float(7) }} {{ [] | int }} {{ true | int }}
{{ 'a' | default('b') }} {{ '' | default('b', true) }} {{ nothing | default('b') }} {{ nothing | d('b', true) }} {{ missing.x.y | d(1) if false }}
{{ '<x>' + (d | tojson | safe) }}{{ (d | tojson | safe) + '<x>' }}{{ '<x>' ~ (d | tojson | safe) ~ '<y>' }}{{ '<' + ('<' | e) + ('<' | safe) }}
{{ '<&>' | e | e }}{{ '<&>' | e | forceescape }}{{ '<&>' | safe | e }}{{ '<&>' | e | string | e }}{{ ('<' | e) is escaped }}{{ '<' is escaped }}{{ ('<' | safe | upper) is escaped }}{{ ('<' | safe | title) is escaped }}
{{ ('<%s|%r|%5d>' | safe) % ('<', '<', 7) }}{{ ('%s' | safe) % ('<' | safe) }}{{ ('%(a)s' | safe) % {'a': '<', 'b': 1} }}{{ '%s' % ('<' | safe) }}{{ ('%s' | safe) | format('<') }}{{ ('%4s|%-5.2s|' | safe) % ('<', '>') }}
{{ ('%x' | safe) % 5 }}
{{ ('%*d' | safe) % (5, 5) }}
{{ ('<{}|{a}|{b!r}|{:>3}>' | safe).format('<', '>', a='>' | safe, b='"') }}{{ '{}'.format('<' | safe) }}{{ ('{a}' | safe).format_map({'a': '<'}) }}
{{ ('{:>3}' | safe).format('<' | safe) }}
{{ (users * 3) | pprint }}
{{ {'list': range(60) | list, 'tuple': (range(40) | list, 'x' * 90), 'one': ('y' * 90,), 'deep': {'a': {'b': {'c': users}}}, 'empty': [[], {}, ()]} | pprint }}
{{ ('a word and another, ' * 9) | pprint }}|{{ ('x' * 100) | pprint }}|{{ ('short\n' * 3 + 'a long line of many words ' * 6 + '\nend') | pprint }}|{{ ' ' * 90 | pprint }}
{{ ['a word and another, ' * 9, 'x' * 100, ('it\'s "é" ' * 14)] | pprint }}
{{ {'key': 'a word and another, ' * 9, 'key two': ['line\n' * 30]} | pprint }}
{{ [{'role': 'user', 'content': 'x' * 39}] | pprint }}|{{ [{'role': 'user', 'content': 'x' * 40}] | pprint }}|{{ [{'role': 'user', 'content': 'x' * 41}] | pprint }}
{{ [[[[[[[[[[[['x' * 60, 'y' * 9]]]]]]]]]]]] | pprint }}|{{ (('w ' * 50,), 1) | pprint }}|{{ [('<' * 90) | safe, (d.items() | list) * 9] | pprint }}
{{ {'append': 1}.append }}{{ {'sort': 2}.sort }}{{ {'pop': 3}.pop is defined }}{{ {'pop': 3}['pop'] }}{{ list.append is defined }}
{{ '{}{0}'.format(1) }}
{{ '{0}{}'.format(1) }}
{{ '{x}{}{y}{}'.format(1, 2, x=3, y=4) }}{{ '{:{}}|{:>{x}}'.format(1, 3, 2, x=4) }}{{ '{0:{1}}'.format(1, 3) }}
{{ '{0:{}}'.format(1, 3) }}
{{ ('<' | safe).join(['<', '>' | safe, 5]) }}{{ '<'.join(['<', '>' | safe]) is escaped }}{{ ['<', '>' | safe] | join('<' | safe) is escaped }}{{ ['<'] | join('<' | safe) }}
{{ ('a<b' | safe).replace('a', '<') }}{{ ('a<b' | safe) | replace('a', '<') }}{{ 'ab'.replace('a', '<' | safe) is escaped }}{{ ('ab' | safe).ljust(4, '*') + '<' }}{{ ('ab' | safe) | center(6) + '<' }}{{ 'ab' | safe | trim + '<' }}
{{ ('ab' | safe).ljust(4, '<') }}
{{ ('ab' | safe)[0] + '<' }}{{ ('ab' | safe)[:1] + '<' }}{{ ('ab' | safe)[::-1] + '<' }}{{ ('ab' | safe) | first + '<' }}{{ ('ab' | safe) | last + '<' }}{{ ('ab' | safe) | reverse + '<' }}{{ ('ab' | safe) * 2 + '<' }}{{ 2 * ('ab' | safe) + '<' }}
{{ ('a b' | safe).split() }}{{ ('a b' | safe).partition(' ') }}{{ 'a b'.partition(' ' | safe) }}{{ ('a\nb' | safe).splitlines() }}{{ [('<' | safe), '<'] }}{{ {'<' | safe: '<' | safe} }}{{ '%r' % ('<' | safe) }}{{ [('<' | e)] | tojson }}{{ ('<' | safe) | pprint }}
{{ ('abc' | safe).upper() + '<' }}{{ ('abc' | safe).strip('a') + '<' }}{{ ('abc' | safe).removeprefix('a') + '<' }}{{ ('abc' | safe).zfill(5) + '<' }}{{ ('abc' | safe).title() + '<' }}{{ 'abc' | safe | capitalize + '<' }}{{ 'abc' | safe | lower + '<' }}
{{ ('foo bar baz' | safe) | truncate(5, true, '<', 0) }}{{ 'foo bar<baz' | truncate(10, true, '<' | safe, 0) }}{{ ('foo' | safe) | truncate(5) + '<' }}{{ ('a\nb' | safe) | indent + '<' }}{{ ('a b' | safe) | wordwrap(1) + '<' }}{{ ('<b>' | safe) | striptags + '<' }}
{% set s %}{{ '<' | safe }}{% endset %}{{ s + '<' }}{% macro m(x) %}{{ x + '<' }}{% endmacro %}{{ m('a') + '<' }}{{ m('a' | safe) + '<' }}{% set t = 'a' | safe %}{{ t + '<' }}{{ {'a': '<' | safe, 'b': '<'} | xmlattr }}{{ (('<' | safe) ~ 'a') + '<' }}
{{ ('<' | safe) == '<' }}{{ ('<' | safe) in ['<'] }}{{ {'<': 1}['<' | safe] }}{{ ('a' | safe) < 'b' }}{{ ('a' | safe) is string }}{{ ('a' | safe) | length }}{{ (5 | safe) + '<' }}{{ (none | e) + '<' }}{{ ('' | safe) + '<' }}{{ not ('' | safe) }}
{{ ('a' | safe) + 1 }}
{{ missing | safe + '<' }}{{ [('b' | safe), 'a'] | sort }}{{ [('b' | safe), 'b'] | unique | list }}{{ ('ab' | safe) | list }}{{ ('ab' | safe) | map('upper') | list }}{{ ['a' | safe] | map('upper') | list }}{{ ('a' | safe) | default('b') + '<' }}
{{ word | e }} {{ '<&>"\'' | e }} {{ '<' | safe }} {{ '<' | forceescape }} {{ 5 | e }}
{{ [1, [2, [3]]] | string }} {{ d | string }} {{ n | pprint }} {{ word | pprint }} {{ list | pprint }} {{ {'b': 1, 'a': [1, 'x']} | pprint }}
{{ 'Hello'.isalpha() }} {{ '½'.isnumeric() }} {{ '½'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '٣'.isdecimal() }} {{ ''.isalpha() }} {{ 'Ab Cd'.istitle() }} {{ ' \t'.isspace() }} {{ 'a1_'.isidentifier() }} {{ '1a'.isidentifier() }} {{ 'a\n'.isprintable() }}
{{ 'aXbX'.replace('X', '', 1) }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ 'abcabc'.rfind('b') }} {{ 'wörld'.find('l') }} {{ 'aaa'.count('a') }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'x=1'.split('=', maxsplit=1) }} {{ 'tab\tx'.expandtabs() }} {{ '-5'.zfill(4) }}
{{ 'abc'.encode('utf-8') }}
{{ 'abc'.translate({}) }}
{{ 'abc'.foo() }}
{{ ''.__class__ }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b', {}).get('c') }} 
{{ {'a': 1}.pop('a') }}
{{ {'a': 1}.update({'b': 2}) }}
{{ {'items': 1}.items }} {{ {'items': 1}['items'] }} {{ {'get': 1}['get'] }}
{{ [1, 2].index(2) }} {{ [1, 1].count(1) }} {{ (1, 2).index(1) }} {{ (5).bit_length() }} {{ 2.0.is_integer() }} {{ (2.5).is_integer() }}
{% set s = 'abc' %}{{ s.upper() }}{{ s.upper }}
{{ namespace(a=1).a }}{% set ns = namespace() %}{% set ns.list = [1] %}{{ ns.list }}{% set ns.list = ns.list + [2] %}{{ ns.list }}{{ namespace({'q': 5}).q }}
{% set ns = namespace(x=none) %}{% for i in list %}{% if ns.x is none %}{% set ns.x = i %}{% endif %}{% endfor %}{{ ns.x }}
{% set outer = 'o' %}{% macro m() %}{{ outer }}{{ inner is defined }}{% endmacro %}{% set inner = 1 %}{{ m() }}{% if true %}{% set inside = 2 %}{% endif %}{{ inside }}
{{ lipsum is callable }}{{ caller is defined }}{{ varargs is defined }}{{ loop is defined }}
   {%- if true -%}   x   {%- endif -%}   y
a
{% if true %}
b
{% endif %}
c
  {% set x = 1 %}
  {{ x }}
  {%+ if true %}z{% endif +%}
end
{{ 'a' if true }}{{ '' if false else 'b' }}{%- for x in [1,2] %}{{ x }}{{ ',' if not loop.last }}{% endfor %}
{{ "\"" }}{{ '\'' }}{{ "\\n" }}{{ "\x41\u00e9\101" }}{{ 'a\
b' }}
{{ [1,2,3,] }}{{ (1,2,) }}{{ {'a':1,} }}{{ dict(a=1,) }}{{ [[1,2],[3]][0][1] }}{{ -1 ** 2 }}{{ 2 ** 3 ** 2 }}{{ - - 1 }}{{ not 1 == 2 }}{{ 1 + 2 * 3 - 4 / 2 }}{{ (1 + 2) * 3 }}{{ 'a' ~ (1 + 2) }}{{ 10 - 2 - 3 }}{{ 1 if 0 else 2 if 1 else 3 }}
{{ 5 | string | length + 1 }}{{ -5 | abs }}{{ 'a,b' | replace(',', ';') | upper }}{{ n is defined and n | string == '7' }}{{ 'ab'[0] | upper }}{{ list | length > 2 and true }}
{{ d.a + d['b'] }}{{ (d | length) * 2 }}{{ d | tojson | length }}{{ d.items() | list | tojson }}{{ (1, 2) | tojson }}{{ range(2) | list | tojson }}{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}
{{ missing | tojson }}
{{ range(2) | tojson }}
{{ [nan] | tojson if false }}{{ 'inf' | float | tojson }}{{ ('nan' | float) == ('nan' | float) }}{{ -('inf' | float) }}{{ 'nan' | float | string }}
{{ {'a': {'b': [1, {'c': []}], 'd': {}}} | tojson(indent=4) }}{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}{{ [1, [2]] | tojson(indent=0) }}
{{ strftime_now('%Y') | length }}
{{ n.real }}{{ n.imag }}{{ n.numerator }}{{ f.real }}
{{ 'x' is sameas 'x' }}{{ none is sameas none }}{{ list is sameas list }}{{ 1 is sameas 1.0 }}{{ true is sameas 1 }}
{% include 'x' %}
{% import 'x' as y %}
{% extends 'x' %}
{{ cycler() }}
{{ dict(1, 2) }}
{{ range(1000000) | length }}
{{ list | nosuch }}
{{ list is nosuch }}
{{ nosuch() }}
{{ n() }}
{{ 'abc' | attr('upper') is defined }}{{ d | attr('a') is defined }}{{ d | attr('items') is defined }}
{{ 'x' | center(5) }}|{{ 'x' | center(4) }}|{{ 'xy' | center(5) }}|{{ 'x'.center(4, '*') }}|{{ 'xy'.center(5, '*') }}
{{ '%s %s' | format('a', 'b') }}{{ '%(x)s' | format(x=1) }}{{ '%d%%' | format(5) }}{{ '%5.2f' | format(3.14159) }}
{{ ['a'] + ['b'] }}{{ 'a' in ['a'] and 'b' not in ['a'] }}{{ [1, 2] == (1, 2) }}{{ 'a' == none }}{{ none < 1 if false }}{{ [] or 'x' }}{{ {} or none }}
{{ users | map(attribute='age') | unique | list }}{{ users | sum(attribute='age') }}{{ users | sort(attribute='name') | map(attribute='name') | list }}{{ users | sort(attribute='age,name', reverse=true) | map(attribute='name') | list }}{{ users | min(attribute='age') }}
{{ 'a b c' | wordcount }}{{ "it's a-b_c 1.5" | wordcount }}{{ '' | wordcount }}
{{ 1 }}{{ 2 -}}   {{- 3 }}{# c -#}   {{ 4 }}
{{ [x for x in list] }}
{{ lambda: 1 }}
{{ list[0:2][1] }}{{ text.strip()[:5] }}{{ n[0] is defined }}{{ nothing[0] is defined }}
{{ word.split('a')[1:] }}{{ 'a/b/c'.split('/')[-1] }}{{ 'abc'[5:] }}{{ 'abc'[1] }}{{ 'abc'[9] is defined }}
{{ text | trim | length }}{{ text.strip().split('\n')[0] }}{{ text | replace('\n', ' ') | trim }}{{ text.splitlines() | length }}
{{ 'Name: %s' % users[0].name }}{{ 'a%sb' % 'x' ~ 'y' }}{{ '%s' % list }}{{ '%s %s' % (1, 2) }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ 'a' * -1 }}{{ [0] * 0 }}{{ 'ab' * 2 ~ '!' }}
{{ (users | first).name }}{{ (users | last)['name'] }}{{ users | map(attribute='name') | first }}{{ users | length }}{{ users[0] | length }}{{ users[1:] | map(attribute='name') | join }}
{{ users[0].keys() | list }}{{ users[0].items() | list | length }}{% for key, value in users[0].items() %}{{ key }}{{ value }}{% endfor %}
{{ 1.0 | int }}{{ 1e3 | int }}{{ '1e3' | float }}{{ '1e3' | int }}{{ 3.99 | int }}{{ -3.99 | int }}{{ 10 | float | string }}
{{ 12 | round(1) }}{{ 12.345 | round(2) | string }}{{ 0.5 | round }}{{ 1.5 | round | int }}{{ -0.5 | round }}{{ 1e20 | int }}{{ 1e20 }}{{ 100000000000000000 * 10.0 }}
""".strip("\n")


def filter_calls():
    """The lines of FILTERS: the bars between the filters of one chain stay where the next filter only makes a list."""
    for line in FILTERS.splitlines():
        parts = re.split(r"\|(?![^(]*'\))", line)
        call = ""
        for part in parts:
            if part in ("list", "string", "join('-')") and call:
                yield call + " | " + part
                call = ""
                continue
            if call:
                yield call
            call = part
        yield call


def snippets():
    """The lines of SNIPPETS; some templates span several."""
    text, lines = SNIPPETS, []
    several = text[text.index("a\n{% if true %}\nb") : text.index("{{ 'a' if true }}{{ ''")]
    text = text.replace(several, "")
    broken = text[text.index('{{ "\\""') : text.index("{{ [1,2,3,] }}")]
    text = text.replace(broken, "")
    lines = text.split("\n")
    return [line for line in lines if line] + [several, broken]


def templates():
    """All of them, each once."""
    out = []
    for call in filter_calls():
        out += [f"{{{{ {value} | {call} }}}}" for value in VALUES]
    for test in TESTS:
        out += [f"{{{{ {value} is {test} }}}}{{{{ {value} is not {test} }}}}" for value in VALUES]
    for method in METHODS:
        out += [f"{{{{ {value}.{method} }}}}" for value in VALUES if value != "missing"]
    for a in ["n", "neg", "f", "yes", "digits", "list", "nothing", "big"]:
        for b in ["n", "neg", "f", "yes", "digits", "list", "zero"]:
            out += [f"{{{{ {a} {op} {b} }}}}" for op in ["+", "-", "*", "/", "//", "%", "**", "~", "==", "<", ">=", "in"]]
    return list(dict.fromkeys(out + snippets()))


def kind(error):
    """What went wrong, as far as another implementation can say the same: when, or why."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        # Unknown filters and tests are among these.
        return "syntax"
    if str(error) == "boom":
        return "raised"
    if isinstance(error, jinja2.UndefinedError):
        return "undefined"
    if isinstance(error, ZeroDivisionError):
        return "zero"
    if isinstance(error, RecursionError):
        return "depth"
    return "value"


def record(template):
    """One line of the file."""
    try:
        expected = _compile_jinja_template(template).render(**json.loads(json.dumps(DATA)))
    except Exception as error:  # noqa: BLE001 (whatever the language raises)
        return {"template": template, "expected": None, "error": kind(error)}
    if expected is not None and re.search(r" at 0x|object at|<function|<bound|built-in", expected):
        return None
    return {"template": template, "expected": expected}


def main():
    """Write language.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parent.parent / "tests/fixtures/templates/language.json"
    parser.add_argument("--out", type=Path, default=default)
    out = parser.parse_args().out
    records = [r for r in map(record, templates()) if r is not None]
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    data = json.dumps(DATA, ensure_ascii=False)
    out.write_text(f'{{"data": {data},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")
    failing = sum(r["expected"] is None for r in records)
    print(f"{len(records)} templates, {failing} of them fail")


if __name__ == "__main__":
    main()
