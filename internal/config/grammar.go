package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The grammar, C OpenCT's (src/ifd/conf.c):
//
//	file      := statement*
//	statement := NAME [ "=" ] [ VALUE ] [ "{" statement* "}" ] ( ";" | "," )
//
// Names and values are words between white space and the characters = ; , { }.
// # starts a comment where a word could start, and only there: a#b is one word.
// Three things are allowed that C OpenCT refused: a statement without value or
// group may end with ; as well, the last one of a group needs no end at all, and
// a word may be put in double quotes, which have no escapes and end on their line.

// node is one statement.
type node struct {
	name, value string
	hasValue    bool
	group       []*node
	hasGroup    bool
	line        int
}

// ErrSyntax: the file does not follow the grammar.
var ErrSyntax = errors.New("syntax error")

const (
	maxSize  = 1 << 20 // bytes of a file
	maxDepth = 32      // groups in groups
)

type tokenKind int

const (
	end tokenKind = iota
	word
	punctuation // = ; , { }
	bad         // no token: NUL, or quotes that are not closed on their line
)

type token struct {
	kind  tokenKind
	text  string
	line  int
	first bool // of its line
}

func (t token) is(punct string) bool { return t.kind == punctuation && strings.Contains(punct, t.text) }

// begins says whether the token looks like the beginning of a statement, though
// the one before it was not ended.
func (t token) begins() bool { return t.kind == word && t.first }

// parser reads statements. A statement with an error is skipped, and the rest
// is read as if it had not been there.
type parser struct {
	lexer
	warn func(line int, err error)
}

// parse reads a whole file.
func parse(src []byte, warn func(line int, err error)) []*node {
	p := &parser{lexer: lexer{src: string(src), line: 1}, warn: warn}
	p.next()
	return p.statements(0)
}

// statements reads up to the end of the file or of the group; p.tok is then the
// end or the }.
func (p *parser) statements(depth int) []*node {
	var nodes []*node
	for p.tok.kind != end && !(depth > 0 && p.tok.is("}")) {
		nodes = append(nodes, p.statement(depth)...)
	}
	return nodes
}

// statement reads a statement and the ; behind it. The result is empty for one
// with an error. Of one whose group is open at the end of the file, it is what
// is in that group: a missing } must not take the rest of the file away.
func (p *parser) statement(depth int) []*node {
	back := p.lexer // where to look for the statement's end after an error
	n := &node{name: p.tok.text, line: p.tok.line}
	fail := func() []*node {
		switch err := p.unexpected(); {
		case n.name == "":
			p.warn(p.tok.line, err)
		case p.tok.begins():
			p.warn(n.line, fmt.Errorf("%w: the semicolon after %s is missing; the statement is skipped", ErrSyntax, show(n.name)))
		default:
			p.warn(p.tok.line, fmt.Errorf("%w; the statement %s is skipped", err, show(n.name)))
		}
		p.lexer = back
		p.skip(depth)
		return nil
	}
	if p.tok.kind != word {
		n.name = ""
		return fail()
	}
	p.next()
	back = p.lexer
	assigned := p.tok.is("=")
	if assigned {
		p.next()
	}
	if p.tok.kind == word {
		n.value, n.hasValue = p.tok.text, true
		p.next()
	}
	if p.tok.is("{") {
		if depth == maxDepth {
			p.warn(p.tok.line, fmt.Errorf("%w: more than %d nested groups; the statement %s is skipped", ErrSyntax, maxDepth, show(n.name)))
			p.lexer = back
			p.skip(depth)
			return nil
		}
		p.next()
		n.group, n.hasGroup = p.statements(depth+1), true
		if p.tok.kind == end {
			p.warn(n.line, fmt.Errorf("%w: unexpected end of file: the brace that closes the group of %s is missing; the statement is skipped", ErrSyntax, show(n.name)))
			return n.group
		}
		p.next()
		back = p.lexer
	}
	switch {
	case assigned && !n.hasValue && !n.hasGroup: // name = ;
		return fail()
	case p.tok.is(";,"):
		p.next()
	case depth > 0 && p.tok.is("}"):
	default:
		return fail()
	}
	return []*node{n}
}

func (p *parser) unexpected() error {
	switch p.tok.kind {
	case end:
		return fmt.Errorf("%w: unexpected end of file", ErrSyntax)
	case bad:
		return fmt.Errorf("%w: %s", ErrSyntax, p.tok.text)
	}
	return fmt.Errorf("%w: unexpected token %s", ErrSyntax, show(p.tok.text))
}

// skip goes behind the end of a statement with an error: its ; or, where that is
// missing, the line before one that begins with a word.
func (p *parser) skip(depth int) {
	for open := 0; p.tok.kind != end; p.next() {
		switch {
		case p.tok.is("{"):
			open++
		case p.tok.is("}") && open > 0:
			open--
		case open > 0:
		case depth > 0 && p.tok.is("}"), p.tok.begins():
			return
		case p.tok.is(";,"):
			p.next()
			return
		}
	}
}

// lexer cuts the file into tokens; tok is the one to look at.
type lexer struct {
	src  string // behind tok
	line int    // of src's first byte
	tok  token
}

const (
	blanks  = " \t\n\v\f\r"
	special = "=;,{}"
)

// next reads the next token into tok.
func (l *lexer) next() {
	first := l.tok.line == 0
	for l.src != "" {
		switch c := l.src[0]; {
		case c == '\n':
			first = true
			l.line++
			l.src = l.src[1:]
		case strings.IndexByte(blanks, c) >= 0:
			l.src = l.src[1:]
		case c == '#':
			l.src = l.src[lineEnd(l.src):]
		case c == 0:
			l.take(bad, 1, 0, first)
			l.tok.text = "NUL byte"
			return
		case strings.IndexByte(special, c) >= 0:
			l.take(punctuation, 1, 0, first)
			return
		case c == '"':
			n := strings.IndexByte(l.src[1:lineEnd(l.src)], '"')
			if n < 0 {
				l.take(bad, lineEnd(l.src), 0, first)
				l.tok.text = `unexpected token "\"", the quotes are not closed on this line`
				return
			}
			l.src = l.src[1:]
			l.take(word, n, 1, first)
			return
		default:
			n := strings.IndexAny(l.src, blanks+special+"\x00")
			if n < 0 {
				n = len(l.src)
			}
			l.take(word, n, 0, first)
			return
		}
	}
	l.tok = token{kind: end, line: l.line}
}

// take makes n bytes the token and skips some behind it.
func (l *lexer) take(kind tokenKind, n, skip int, first bool) {
	l.tok = token{kind: kind, text: l.src[:n], line: l.line, first: first}
	l.src = l.src[n+skip:]
}

func lineEnd(s string) int {
	if n := strings.IndexByte(s, '\n'); n >= 0 {
		return n
	}
	return len(s)
}

// show quotes a word from the file, which may hold anything.
func show(s string) string { return strconv.Quote(s) }
