package operator

import "strings"

// shellSigns are what only a shell gives a meaning to.
const shellSigns = "|&;<>()$`*?[]{}~#!\n\r"

// argv is how a command line runs: taken apart at blanks and quotes when that is
// all there is to it, so that an image needs no shell; else by /bin/sh.
func argv(command string) []string {
	if words, ok := split(command); ok && len(words) > 0 && !strings.Contains(words[0], "=") {
		return words
	}
	return []string{"/bin/sh", "-c", command}
}

// split reads words, 'single' and "double" quotes and backslashes as a shell
// does; false if there is more in it than that.
func split(s string) ([]string, bool) {
	var words []string
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				word.WriteByte(c)
			}
		case c == '\\':
			if i++; i == len(s) || quote == '"' && !strings.ContainsRune(`"\`, rune(s[i])) || s[i] == '\n' {
				return nil, false
			}
			in = true
			word.WriteByte(s[i])
		case quote == '"':
			switch c {
			case '"':
				quote = 0
			case '$', '`', '!':
				return nil, false
			default:
				word.WriteByte(c)
			}
		case c == '\'' || c == '"':
			in, quote = true, c
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		case strings.IndexByte(shellSigns, c) >= 0:
			return nil, false
		default:
			in = true
			word.WriteByte(c)
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words, quote == 0
}

// literal keeps Kubernetes from expanding $(NAME) in what a user wrote.
func literal(s string) string { return strings.ReplaceAll(s, "$(", "$$(") }
