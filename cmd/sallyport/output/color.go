package output

import "bytes"

const (
	blue   = "\x1b[34m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// paint colours indented JSON: names blue, strings green, the rest yellow.
func paint(data []byte) []byte {
	var out bytes.Buffer
	for i := 0; i < len(data); {
		switch c := data[i]; {
		case c == '"':
			end := i + 1
			for data[end] != '"' {
				if data[end] == '\\' {
					end++
				}
				end++
			}
			end++
			color := green
			if end < len(data) && data[end] == ':' {
				color = blue
			}
			out.WriteString(color)
			out.Write(data[i:end])
			out.WriteString(reset)
			i = end
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-':
			end := i + 1
			for end < len(data) && bytes.IndexByte([]byte(",\n]} "), data[end]) < 0 {
				end++
			}
			out.WriteString(yellow)
			out.Write(data[i:end])
			out.WriteString(reset)
			i = end
		default:
			out.WriteByte(c)
			i++
		}
	}
	return out.Bytes()
}
