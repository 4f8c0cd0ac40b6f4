package main

import (
	"errors"
	"fmt"
	"strings"
)

// token is an operator or a word of parts.
type token struct {
	op     string // one of the operators, or ""
	parts  []part
	quoted bool
}

// part is a piece of a word; a name stands for a variable.
type part struct{ text, name string }

// plain returns the word if it has no quotes and no variables: only such words
// are keywords.
func (t token) plain() string {
	if t.op != "" || t.quoted || len(t.parts) != 1 || t.parts[0].name != "" {
		return ""
	}
	return t.parts[0].text
}

func (t token) expand(s *shell) string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.name != "" {
			b.WriteString(s.lookup(p.name))
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// operators, longest first.
var operators = []string{"2>&1", "2>>", "&&", "||", ">>", "2>", ";", "|", "<", ">", "\n"}

func lex(text string) ([]token, error) {
	var tokens []token
	for i := 0; i < len(text); {
		if text[i] == ' ' || text[i] == '\t' || text[i] == '\r' {
			i++
			continue
		}
		if text[i] == '#' {
			for i < len(text) && text[i] != '\n' {
				i++
			}
			continue
		}
		if op := operatorAt(text[i:]); op != "" {
			tokens = append(tokens, token{op: op})
			i += len(op)
			continue
		}
		word, n, err := lexWord(text[i:])
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, word)
		i += n
	}
	return tokens, nil
}

func operatorAt(text string) string {
	for _, op := range operators {
		if strings.HasPrefix(text, op) {
			return op
		}
	}
	return ""
}

// lexWord reads one word and says how long it is.
func lexWord(text string) (token, int, error) {
	var t token
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			t.parts = append(t.parts, part{text: b.String()})
			b.Reset()
		}
	}
	double := false
	i := 0
	for ; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text):
			i++
			if double && !strings.ContainsRune("\"\\$`", rune(text[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(text[i])
		case c == '"':
			double, t.quoted = !double, true
		case c == '$':
			name, n := variableAt(text[i+1:])
			if n == 0 {
				b.WriteByte(c)
				continue
			}
			flush()
			t.parts = append(t.parts, part{name: name})
			i += n
		case double:
			b.WriteByte(c)
		case c == '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return t, 0, errors.New("unterminated '")
			}
			t.quoted = true
			b.WriteString(text[i+1 : i+1+end])
			i += end + 1
		case strings.IndexByte(" \t\r\n;|<>", c) >= 0 || strings.HasPrefix(text[i:], "&&"):
			flush()
			return t, i, nil
		default:
			b.WriteByte(c)
		}
	}
	if double {
		return t, 0, errors.New("unterminated \"")
	}
	flush()
	return t, i, nil
}

// variableAt reads NAME, {NAME} or ? and says how long it is, 0 for none.
func variableAt(text string) (string, int) {
	if strings.HasPrefix(text, "?") {
		return "?", 1
	}
	if strings.HasPrefix(text, "{") {
		if end := strings.IndexByte(text, '}'); end > 0 && (isName(text[1:end]) || text[1:end] == "?") {
			return text[1:end], end + 1
		}
		return "", 0
	}
	n := 0
	for n < len(text) && isName(text[:n+1]) {
		n++
	}
	return text[:n], n
}

func isName(s string) bool {
	for i, c := range s {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// parser walks over tokens while the shell runs them.
type parser struct {
	tokens []token
	pos    int
}

func (p *parser) peek() (token, bool) {
	if p.pos >= len(p.tokens) {
		return token{}, false
	}
	return p.tokens[p.pos], true
}

func (p *parser) keyword() string {
	t, _ := p.peek()
	return t.plain()
}

func (p *parser) expect(word string) error {
	p.separators()
	if p.keyword() != word {
		return fmt.Errorf("%q expected", word)
	}
	p.pos++
	return nil
}

func (p *parser) separators() {
	for t, ok := p.peek(); ok && (t.op == ";" || t.op == "\n"); t, ok = p.peek() {
		p.pos++
	}
}

// list runs (or with live false only reads) commands up to one of the end words.
func (s *shell) list(p *parser, end []string, live bool) error {
	for {
		p.separators()
		if _, ok := p.peek(); !ok {
			if end != nil {
				return fmt.Errorf("%q expected", end[0])
			}
			return nil
		}
		for _, word := range end {
			if p.keyword() == word {
				return nil
			}
		}
		if err := s.andOr(p, live && !s.exiting); err != nil {
			return err
		}
	}
}

func (s *shell) andOr(p *parser, live bool) error {
	run := live
	for {
		if err := s.command(p, run); err != nil {
			return err
		}
		t, ok := p.peek()
		if !ok || t.op != "&&" && t.op != "||" {
			return nil
		}
		p.pos++
		run = live && !s.exiting && (s.status == 0) == (t.op == "&&")
	}
}

func (s *shell) command(p *parser, live bool) error {
	switch p.keyword() {
	case "while":
		return s.while(p, live)
	case "for":
		return s.forIn(p, live)
	case "if":
		return s.ifThen(p, live)
	}
	stages := [][]token{nil}
	for t, ok := p.peek(); ok && !endsPipeline(t.op); t, ok = p.peek() {
		if t.op == "|" {
			stages = append(stages, nil)
		} else {
			stages[len(stages)-1] = append(stages[len(stages)-1], t)
		}
		p.pos++
	}
	for _, stage := range stages {
		if len(stage) == 0 {
			return errors.New("a command is missing")
		}
	}
	if live {
		s.pipeline(stages)
	}
	return nil
}

func endsPipeline(op string) bool {
	return op == ";" || op == "\n" || op == "&&" || op == "||"
}

func (s *shell) while(p *parser, live bool) error {
	p.pos++
	begin := p.pos
	for {
		p.pos = begin
		if err := s.list(p, []string{"do"}, live); err != nil {
			return err
		}
		p.pos++
		again := live && !s.exiting && s.status == 0
		if err := s.list(p, []string{"done"}, again); err != nil {
			return err
		}
		p.pos++
		if !again || s.exiting {
			if live && !s.exiting {
				s.status = 0
			}
			return nil
		}
	}
}

func (s *shell) forIn(p *parser, live bool) error {
	p.pos++
	name := p.keyword()
	p.pos++
	if !isName(name) || p.keyword() != "in" {
		return errors.New("want: for NAME in WORDS; do LIST; done")
	}
	p.pos++
	var words []string
	for t, ok := p.peek(); ok && t.op == ""; t, ok = p.peek() {
		words = append(words, t.expand(s))
		p.pos++
	}
	if err := p.expect("do"); err != nil {
		return err
	}
	begin := p.pos
	for _, w := range append(words, "") { // the last round only reads, for an empty list
		p.pos = begin
		round := live && !s.exiting && len(words) > 0
		if round {
			s.vars[name] = w
			words = words[1:]
		}
		if err := s.list(p, []string{"done"}, round); err != nil {
			return err
		}
	}
	p.pos++
	return nil
}

func (s *shell) ifThen(p *parser, live bool) error {
	p.pos++
	if err := s.list(p, []string{"then"}, live); err != nil {
		return err
	}
	p.pos++
	yes := s.status == 0
	if err := s.list(p, []string{"else", "fi"}, live && yes); err != nil {
		return err
	}
	if p.keyword() == "else" {
		p.pos++
		if err := s.list(p, []string{"fi"}, live && !yes); err != nil {
			return err
		}
	}
	p.pos++
	return nil
}
