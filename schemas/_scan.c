/* Reads events of plain spelling in one pass: from bytes to what schemas.event.Event holds.
 *
 * It accepts a part of what schemas.careful accepts, and gives for it the very same event; whatever it is not sure of it
 * leaves to that one: its answer is then None, never an error. So it has no messages, and need not know every rule, only
 * which spellings are surely good: strings with any escape, numbers of up to 19 characters without an exponent, nesting
 * up to DEPTH_MAX, objects of up to MEMBERS_MAX members in all that are open at once.
 *
 * Every function that returns bool says whether it is sure. The input is always a bytes object, which ends with a NUL
 * that no function steps over: so one byte may always be looked at. What is written is never longer than what was read.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define DEPTH_MAX 32
#define MEMBERS_MAX 1024
#define EVENTS_MAX 100
#define NAME_CHARACTERS_MAX 255
#define NUMBER_CHARACTERS_MAX 19
#define LEADING_ZEROS_MAX 5 /* of a fraction below one tenth; with more of them decimals are written with an exponent */
#define UUID_CHARACTERS 36
#define ID_BYTES 16

typedef struct {
    const uint8_t *begin; /* its name's first byte, behind the quote */
    Py_ssize_t name_bytes;
    const uint8_t *end; /* behind its value */
} Member;

typedef struct {
    const uint8_t *at;  /* the input's next byte */
    uint8_t *out;       /* where the canonical form goes on */
    uint8_t *scratch;   /* as much room as there is behind `out` at the beginning */
    Member *members;    /* of the objects that are open, the outermost first */
    size_t open_members;
} Scan;

/* -- strings */

static bool is_plain(uint8_t byte)
{
    static const uint8_t special[256] = {
        [0 ... 0x1F] = 1, ['"'] = 1, ['\\'] = 1, [0x80 ... 0xFF] = 1,
    };
    return !special[byte];
}

static int hex_digit(uint8_t byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static bool is_tail(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

/* How many bytes the character beyond ASCII at `at` has, 0 where it is not UTF-8 (RFC 3629, section 4). */
static int utf8_bytes(const uint8_t *at)
{
    uint8_t lead = at[0];
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    if (!is_tail(at[1]))
        return 0;
    if (lead < 0xE0)
        return 2;
    if ((lead == 0xE0 && at[1] < 0xA0) || (lead == 0xED && at[1] > 0x9F) || !is_tail(at[2]))
        return 0;
    if (lead < 0xF0)
        return 3;
    if ((lead == 0xF0 && at[1] < 0x90) || (lead == 0xF4 && at[1] > 0x8F) || !is_tail(at[3]))
        return 0;
    return 4;
}

static bool four_hex_digits(Scan *scan, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*scan->at);
        if (digit < 0)
            return false;
        *code = *code << 4 | (uint32_t)digit;
        scan->at++;
    }
    return true;
}

static void put(Scan *scan, uint8_t byte)
{
    *scan->out++ = byte;
}

static void put_utf8(Scan *scan, uint32_t code)
{
    if (code < 0x80) {
        put(scan, (uint8_t)code);
    } else if (code < 0x800) {
        put(scan, (uint8_t)(0xC0 | code >> 6));
        put(scan, (uint8_t)(0x80 | (code & 0x3F)));
    } else if (code < 0x10000) {
        put(scan, (uint8_t)(0xE0 | code >> 12));
        put(scan, (uint8_t)(0x80 | (code >> 6 & 0x3F)));
        put(scan, (uint8_t)(0x80 | (code & 0x3F)));
    } else {
        put(scan, (uint8_t)(0xF0 | code >> 18));
        put(scan, (uint8_t)(0x80 | (code >> 12 & 0x3F)));
        put(scan, (uint8_t)(0x80 | (code >> 6 & 0x3F)));
        put(scan, (uint8_t)(0x80 | (code & 0x3F)));
    }
}

static void put_pair(Scan *scan, uint8_t letter)
{
    put(scan, '\\');
    put(scan, letter);
}

/* A character as the canonical form spells it. */
static void put_character(Scan *scan, uint32_t code)
{
    static const char short_escapes[] = "btn\0fr"; /* of 8 to 13; 11 has none */
    static const char digits[] = "0123456789abcdef";
    if (code == '"' || code == '\\') {
        put_pair(scan, (uint8_t)code);
    } else if (code >= 0x20) {
        put_utf8(scan, code);
    } else if (code >= 8 && code <= 13 && short_escapes[code - 8]) {
        put_pair(scan, (uint8_t)short_escapes[code - 8]);
    } else {
        memcpy(scan->out, "\\u00", 4);
        scan->out[4] = (uint8_t)digits[code >> 4];
        scan->out[5] = (uint8_t)digits[code & 0xF];
        scan->out += 6;
    }
}

/* A \u escape, and its second half where it has one, behind the u. A NUL and a lone surrogate cannot be kept. */
static bool read_code(Scan *scan)
{
    uint32_t code, low;
    if (!four_hex_digits(scan, &code) || code == 0 || (code >= 0xDC00 && code < 0xE000))
        return false;
    if (code >= 0xD800 && code < 0xDC00) {
        if (scan->at[0] != '\\' || scan->at[1] != 'u')
            return false;
        scan->at += 2;
        if (!four_hex_digits(scan, &low) || low < 0xDC00 || low > 0xDFFF)
            return false;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    put_character(scan, code);
    return true;
}

/* An escape, behind its backslash. */
static bool read_escape(Scan *scan)
{
    uint8_t letter = *scan->at;
    switch (letter) {
    case '"': case '\\': case 'b': case 'f': case 'n': case 'r': case 't':
        put_pair(scan, letter);
        break;
    case '/':
        put(scan, letter);
        break;
    case 'u':
        scan->at++;
        return read_code(scan);
    default:
        return false;
    }
    scan->at++;
    return true;
}

/* A string, from its opening quote on: what is in it, without quotes, in canonical form. */
static bool read_string(Scan *scan, Py_ssize_t *characters)
{
    Py_ssize_t beyond = 0; /* bytes that are no character of their own */
    const uint8_t *begin = scan->out;
    if (*scan->at != '"')
        return false;
    scan->at++;
    for (;;) {
        const uint8_t *from = scan->at;
        const uint8_t *to = from;
        while (is_plain(*to))
            to++;
        memcpy(scan->out, from, (size_t)(to - from));
        scan->out += to - from;
        scan->at = to;
        if (*to == '"')
            break;
        if (*to == '\\') {
            scan->at++;
            if (!read_escape(scan))
                return false;
            continue;
        }
        int bytes = utf8_bytes(to);
        if (bytes == 0)
            return false;
        memcpy(scan->out, to, (size_t)bytes);
        scan->out += bytes;
        scan->at += bytes;
        beyond += bytes - 1;
    }
    scan->at++;
    *characters = scan->out - begin - beyond; /* too many where there are escapes: then it is less sure */
    return true;
}

/* -- numbers */

static const uint8_t *past_digits(const uint8_t *at)
{
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

/* The fraction from `begin` to `end` without the zeros at its end. */
static bool put_fraction(Scan *scan, const uint8_t *begin, const uint8_t *end, bool below_one, bool negative)
{
    while (end > begin && end[-1] == '0')
        end--;
    if (end == begin)
        return !(below_one && negative); /* minus nothing is nothing */
    const uint8_t *first = begin;
    while (*first == '0')
        first++;
    if (below_one && first - begin > LEADING_ZEROS_MAX)
        return false;
    put(scan, '.');
    memcpy(scan->out, begin, (size_t)(end - begin));
    scan->out += end - begin;
    return true;
}

static bool read_number(Scan *scan)
{
    const uint8_t *begin = scan->at;
    bool negative = *begin == '-';
    const uint8_t *whole = begin + negative;
    const uint8_t *end = past_digits(whole);
    bool below_one = *whole == '0';
    if (end == whole || (below_one && end - whole > 1))
        return false;
    memcpy(scan->out, begin, (size_t)(end - begin));
    scan->out += end - begin;
    if (*end == '.') {
        const uint8_t *fraction = end + 1;
        end = past_digits(fraction);
        if (end == fraction || !put_fraction(scan, fraction, end, below_one, negative))
            return false;
    } else if (below_one && negative) {
        return false;
    }
    if (*end == 'e' || *end == 'E' || end - begin > NUMBER_CHARACTERS_MAX)
        return false;
    scan->at = end;
    return true;
}

/* -- values */

static void skip_space(Scan *scan)
{
    while (*scan->at == ' ' || *scan->at == '\n' || *scan->at == '\t' || *scan->at == '\r')
        scan->at++;
}

static bool takes(Scan *scan, uint8_t byte)
{
    skip_space(scan);
    if (*scan->at != byte)
        return false;
    scan->at++;
    return true;
}

static bool read_word(Scan *scan, const char *word)
{
    size_t length = strlen(word);
    if (strncmp((const char *)scan->at, word, length) != 0)
        return false;
    memcpy(scan->out, word, length);
    scan->out += length;
    scan->at += length;
    return true;
}

static int compare_names(const void *one, const void *other)
{
    const Member *a = one, *b = other;
    Py_ssize_t shared = a->name_bytes < b->name_bytes ? a->name_bytes : b->name_bytes;
    int order = memcmp(a->begin, b->begin, (size_t)shared);
    if (order != 0)
        return order;
    return (a->name_bytes > b->name_bytes) - (a->name_bytes < b->name_bytes);
}

/* Bring the members from `first` on, which stand one behind the other up to `out`, into the order of their names. */
static bool sort_members(Scan *scan, size_t first)
{
    Member *members = scan->members + first;
    size_t count = scan->open_members - first;
    uint8_t *begin = (uint8_t *)members[0].begin - 1; /* its quote */
    uint8_t *to = scan->scratch;
    qsort(members, count, sizeof *members, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (i > 0) {
            if (compare_names(&members[i - 1], &members[i]) == 0)
                return false;
            *to++ = ',';
        }
        size_t bytes = (size_t)(members[i].end - members[i].begin) + 1;
        memcpy(to, members[i].begin - 1, bytes);
        to += bytes;
    }
    memcpy(begin, scan->scratch, (size_t)(to - scan->scratch));
    return true;
}

static bool read_value(Scan *scan, int depth);

static bool read_member(Scan *scan, Member *member, int depth)
{
    Py_ssize_t characters;
    skip_space(scan);
    put(scan, '"');
    member->begin = scan->out;
    if (!read_string(scan, &characters) || !takes(scan, ':'))
        return false;
    member->name_bytes = scan->out - member->begin;
    if (memchr(member->begin, '\\', (size_t)member->name_bytes))
        return false; /* escapes are not in the order of what they stand for */
    put(scan, '"');
    put(scan, ':');
    skip_space(scan);
    if (!read_value(scan, depth))
        return false;
    member->end = scan->out;
    return true;
}

static bool read_members(Scan *scan, int depth)
{
    size_t first = scan->open_members;
    bool in_order = true;
    do {
        if (scan->open_members == MEMBERS_MAX)
            return false;
        Member *member = &scan->members[scan->open_members++];
        if (scan->open_members - first > 1)
            put(scan, ',');
        if (!read_member(scan, member, depth))
            return false;
        if (scan->open_members - first > 1)
            in_order = in_order && compare_names(member - 1, member) < 0;
    } while (takes(scan, ','));
    if (!in_order && !sort_members(scan, first))
        return false;
    scan->open_members = first;
    return true;
}

/* An object, from its bracket on. `depth`: how many containers are around it. */
static bool read_object(Scan *scan, int depth)
{
    if (depth == DEPTH_MAX || !takes(scan, '{'))
        return false;
    put(scan, '{');
    if (!takes(scan, '}')) {
        if (!read_members(scan, depth + 1) || !takes(scan, '}'))
            return false;
    }
    put(scan, '}');
    return true;
}

static bool read_list(Scan *scan, int depth)
{
    if (depth == DEPTH_MAX || !takes(scan, '['))
        return false;
    put(scan, '[');
    if (!takes(scan, ']')) {
        for (;;) {
            skip_space(scan);
            if (!read_value(scan, depth + 1))
                return false;
            if (!takes(scan, ','))
                break;
            put(scan, ',');
        }
        if (!takes(scan, ']'))
            return false;
    }
    put(scan, ']');
    return true;
}

static bool read_quoted(Scan *scan)
{
    Py_ssize_t characters;
    put(scan, '"');
    if (!read_string(scan, &characters))
        return false;
    put(scan, '"');
    return true;
}

static bool read_value(Scan *scan, int depth)
{
    switch (*scan->at) {
    case '"':
        return read_quoted(scan);
    case '{':
        return read_object(scan, depth);
    case '[':
        return read_list(scan, depth);
    case 't':
        return read_word(scan, "true");
    case 'f':
        return read_word(scan, "false");
    case 'n':
        return read_word(scan, "null");
    default:
        return read_number(scan);
    }
}

/* -- an event's fields */

enum { PROGRAM, KEY, TIMESTAMP, EXTERNAL, PARTICIPANT, RECIPIENT_EXTERNAL, RECIPIENT, DATA, FIELDS };

#define NAME(text) {text, sizeof text - 1}

static const struct {
    const char *text;
    size_t bytes;
} FIELD_NAMES[FIELDS] = {
    NAME("program_id"),     NAME("idempotency_key"),       NAME("event_timestamp"), NAME("external_id"),
    NAME("participant_id"), NAME("recipient_external_id"), NAME("recipient_id"),    NAME("event_data"),
};

typedef struct {
    uint8_t *begin; /* NULL: not given */
    Py_ssize_t bytes;
} Text;

typedef Text Found[FIELDS];

static int field_named(const uint8_t *name, size_t bytes)
{
    for (int field = 0; field < FIELDS; field++)
        if (FIELD_NAMES[field].bytes == bytes && memcmp(FIELD_NAMES[field].text, name, bytes) == 0)
            return field;
    return FIELDS;
}

/* The number of the field whose name comes next, FIELDS where it is none, or spelled with escapes. */
static int read_field_name(Scan *scan)
{
    skip_space(scan);
    if (*scan->at != '"')
        return FIELDS;
    const uint8_t *begin = ++scan->at;
    while (is_plain(*scan->at))
        scan->at++;
    size_t bytes = (size_t)(scan->at - begin);
    if (*scan->at != '"')
        return FIELDS;
    scan->at++;
    return takes(scan, ':') ? field_named(begin, bytes) : FIELDS;
}

static bool is_optional(int field)
{
    return field >= EXTERNAL && field <= RECIPIENT;
}

static bool is_name(int field)
{
    return field == KEY || field == EXTERNAL || field == RECIPIENT_EXTERNAL;
}

static bool read_field(Scan *scan, int field, Text *text)
{
    Py_ssize_t characters;
    skip_space(scan);
    if (is_optional(field) && *scan->at == 'n') { /* null: as if it were not given */
        uint8_t *out = scan->out;
        bool sure = read_word(scan, "null");
        scan->out = out;
        return sure;
    }
    text->begin = scan->out;
    if (field == DATA) {
        if (!read_object(scan, 0))
            return false;
    } else {
        if (!read_string(scan, &characters) || memchr(text->begin, '\\', (size_t)(scan->out - text->begin)))
            return false;
        if (is_name(field) && (characters < 1 || characters > NAME_CHARACTERS_MAX))
            return false;
    }
    text->bytes = scan->out - text->begin;
    return true;
}

/* Whether a text is a UUID as RFC 9562 writes it; makes its letters small. */
static bool to_uuid(Text *text)
{
    if (text->bytes != UUID_CHARACTERS)
        return false;
    for (int i = 0; i < UUID_CHARACTERS; i++) {
        uint8_t *at = text->begin + i;
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (*at != '-')
                return false;
        } else if (hex_digit(*at) < 0) {
            return false;
        } else if (*at >= 'A' && *at <= 'F') {
            *at |= 0x20;
        }
    }
    return true;
}

/* -- timestamps */

static bool is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static int two_digits(const uint8_t *at)
{
    return (at[0] - '0') * 10 + at[1] - '0';
}

static bool is_date(const uint8_t *at)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year = two_digits(at) * 100 + two_digits(at + 2), month = two_digits(at + 5), day = two_digits(at + 8);
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if (year == 0 || month < 1 || month > 12 || day < 1)
        return false;
    return day <= days[month - 1] + (leap && month == 2);
}

static bool has_shape(const uint8_t *at)
{
    static const char shape[] = "0000-00-00T00:00:00";
    for (int i = 0; shape[i]; i++)
        if (shape[i] == '0' ? !is_digit(at[i]) : at[i] != (uint8_t)shape[i])
            return false;
    return true;
}

/* Whether a text is a time in UTC that a microsecond resolves; makes it the shortest spelling of it, with a Z. */
static bool to_timestamp(Text *text)
{
    const Py_ssize_t second_bytes = 19;
    uint8_t *at = text->begin, *end = at + text->bytes, *to = at + second_bytes;
    if (text->bytes <= second_bytes || !has_shape(at) || !is_date(at))
        return false;
    if (two_digits(at + 11) > 23 || two_digits(at + 14) > 59 || two_digits(at + 17) > 59)
        return false;
    uint8_t *zone = to;
    if (*to == '.') {
        for (zone = to + 1; zone < end && is_digit(*zone);)
            zone++;
        if (zone - to < 2 || zone - to > 7)
            return false;
        uint8_t *last = zone;
        while (last[-1] == '0')
            last--;
        to = last[-1] == '.' ? last - 1 : last;
    }
    bool in_utc = (end - zone == 1 && *zone == 'Z') || (end - zone == 6 && memcmp(zone, "+00:00", 6) == 0);
    if (!in_utc)
        return false;
    *to = 'Z';
    text->bytes = to + 1 - at;
    return true;
}

/* An event, from its bracket on: its fields in canonical form, wherever `out` was. */
static bool read_event(Scan *scan, Found found)
{
    memset(found, 0, sizeof(Found));
    unsigned seen = 0;
    if (!takes(scan, '{'))
        return false;
    do {
        int field = read_field_name(scan);
        if (field == FIELDS || seen >> field & 1)
            return false;
        seen |= 1u << field;
        if (!read_field(scan, field, &found[field]))
            return false;
    } while (takes(scan, ','));
    if (!takes(scan, '}') || !found[PROGRAM].begin || !found[KEY].begin || !found[TIMESTAMP].begin || !found[DATA].begin)
        return false;
    if (!found[EXTERNAL].begin && !found[PARTICIPANT].begin)
        return false;
    return to_uuid(&found[PROGRAM]) && to_timestamp(&found[TIMESTAMP]) &&
           (!found[PARTICIPANT].begin || to_uuid(&found[PARTICIPANT])) &&
           (!found[RECIPIENT].begin || to_uuid(&found[RECIPIENT]));
}

/* -- to Python */

typedef struct {
    PyObject_HEAD
    PyObject *event;    /* the class; takes what `make_event` gives, in that order */
    PyObject *programs; /* a mapping: a program by its text, in small letters */
    PyObject *sha1;     /* of bytes: an object with `digest` */
    PyObject *sha256;
    Py_ssize_t data_bytes_max;
} Reader;

static PyObject *digest_of(PyObject *hash, PyObject *bytes)
{
    PyObject *hashing = PyObject_CallOneArg(hash, bytes);
    if (hashing == NULL)
        return NULL;
    static PyObject *name = NULL;
    if (name == NULL && (name = PyUnicode_InternFromString("digest")) == NULL)
        return NULL;
    PyObject *digest = PyObject_CallMethodNoArgs(hashing, name);
    Py_DECREF(hashing);
    if (digest != NULL && (!PyBytes_Check(digest) || PyBytes_GET_SIZE(digest) < ID_BYTES)) {
        Py_DECREF(digest);
        PyErr_SetString(PyExc_TypeError, "a digest must be bytes, 16 at least");
        return NULL;
    }
    return digest;
}

/* UUIDv5 (RFC 9562, section 5.5), as its 16 bytes. */
static PyObject *event_id(Reader *reader, PyObject *packed, PyObject *key)
{
    Py_ssize_t key_bytes;
    const char *utf8 = PyUnicode_AsUTF8AndSize(key, &key_bytes);
    if (utf8 == NULL)
        return NULL;
    PyObject *name = PyBytes_FromStringAndSize(NULL, ID_BYTES + key_bytes);
    if (name == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(name), PyBytes_AS_STRING(packed), ID_BYTES);
    memcpy(PyBytes_AS_STRING(name) + ID_BYTES, utf8, (size_t)key_bytes);
    PyObject *digest = digest_of(reader->sha1, name);
    Py_DECREF(name);
    if (digest == NULL)
        return NULL;
    PyObject *id = PyBytes_FromStringAndSize(PyBytes_AS_STRING(digest), ID_BYTES);
    Py_DECREF(digest);
    if (id != NULL) {
        uint8_t *bytes = (uint8_t *)PyBytes_AS_STRING(id);
        bytes[6] = (bytes[6] & 0x0F) | 0x50; /* version 5 */
        bytes[8] = (bytes[8] & 0x3F) | 0x80; /* variant */
    }
    return id;
}

static PyObject *fingerprint(Reader *reader, PyObject *record)
{
    PyObject *digest = digest_of(reader->sha256, record);
    if (digest == NULL)
        return NULL;
    PyObject *first = PyBytes_FromStringAndSize(PyBytes_AS_STRING(digest), ID_BYTES);
    Py_DECREF(digest);
    return first;
}

static Py_ssize_t record_bytes(const Found found)
{
    Py_ssize_t bytes = 1; /* a bracket; a comma or the other bracket follows each field */
    for (int field = 0; field < FIELDS; field++)
        if (found[field].begin)
            bytes += (Py_ssize_t)FIELD_NAMES[field].bytes + 4 + found[field].bytes + (field == DATA ? 0 : 2);
    return bytes;
}

static uint8_t *append(uint8_t *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return to + bytes;
}

/* The canonical form of all fields: `raw` itself where it has the same bytes. */
static PyObject *record_of(const Found found, PyObject *raw)
{
    PyObject *record = PyBytes_FromStringAndSize(NULL, record_bytes(found));
    if (record == NULL)
        return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(record);
    uint8_t before = '{';
    for (int field = 0; field < FIELDS; field++) {
        if (!found[field].begin)
            continue;
        *to++ = before;
        *to++ = '"';
        to = append(to, FIELD_NAMES[field].text, FIELD_NAMES[field].bytes);
        to = append(to, field == DATA ? "\":" : "\":\"", field == DATA ? 2 : 3);
        to = append(to, found[field].begin, (size_t)found[field].bytes);
        if (field != DATA)
            *to++ = '"';
        before = ',';
    }
    *to = '}';
    Py_ssize_t bytes = PyBytes_GET_SIZE(record);
    if (raw != NULL && PyBytes_GET_SIZE(raw) == bytes &&
        memcmp(PyBytes_AS_STRING(raw), PyBytes_AS_STRING(record), (size_t)bytes) == 0) {
        Py_DECREF(record);
        return Py_NewRef(raw);
    }
    return record;
}

static PyObject *text_of(const Text *text)
{
    if (!text->begin)
        Py_RETURN_NONE;
    return PyUnicode_DecodeUTF8((const char *)text->begin, text->bytes, "strict");
}

enum { ID, FINGERPRINT, OF_PROGRAM, NAMES, OF_RECORD = NAMES + RECIPIENT - KEY + 1, PARTS };

/* Everything that lies in the scan's memory, as objects of its own; Python code may run only after that. */
static bool copy_out(const Found found, PyObject *raw, PyObject *parts[PARTS], PyObject **program)
{
    for (int field = KEY; field <= RECIPIENT; field++)
        if ((parts[NAMES + field - KEY] = text_of(&found[field])) == NULL)
            return false;
    return (parts[OF_RECORD] = record_of(found, raw)) != NULL && (*program = text_of(&found[PROGRAM])) != NULL;
}

static bool is_program(PyObject *found)
{
    return PyTuple_Check(found) && PyTuple_GET_SIZE(found) > 1 && PyBytes_Check(PyTuple_GET_ITEM(found, 1)) &&
           PyBytes_GET_SIZE(PyTuple_GET_ITEM(found, 1)) == ID_BYTES;
}

static PyObject *make_event(Reader *reader, const Found found, PyObject *raw)
{
    PyObject *parts[PARTS] = {NULL}, *program = NULL, *event = NULL;
    if (!copy_out(found, raw, parts, &program))
        goto done;
    if ((parts[OF_PROGRAM] = PyObject_GetItem(reader->programs, program)) == NULL)
        goto done;
    if (!is_program(parts[OF_PROGRAM])) {
        PyErr_SetString(PyExc_TypeError, "a program must be a tuple with its 16 bytes in the second place");
        goto done;
    }
    if ((parts[ID] = event_id(reader, PyTuple_GET_ITEM(parts[OF_PROGRAM], 1), parts[NAMES])) == NULL)
        goto done;
    if ((parts[FINGERPRINT] = fingerprint(reader, parts[OF_RECORD])) == NULL)
        goto done;
    event = PyObject_Vectorcall(reader->event, parts, PARTS, NULL);
done:
    Py_XDECREF(program);
    for (int i = 0; i < PARTS; i++)
        Py_XDECREF(parts[i]);
    return event;
}

/* Room for what is read of `bytes` bytes, in one piece. False, and a MemoryError, where there is none. */
static bool begin_scan(Scan *scan, PyObject *input, Member *members)
{
    size_t bytes = (size_t)PyBytes_GET_SIZE(input) + 8; /* quotes and brackets are written before what is in them is read */
    uint8_t *room = PyMem_Malloc(2 * bytes);
    if (room == NULL) {
        PyErr_NoMemory();
        return false;
    }
    *scan = (Scan){(const uint8_t *)PyBytes_AS_STRING(input), room, room + bytes, members, 0};
    return true;
}

static bool at_end(Scan *scan, PyObject *input)
{
    skip_space(scan);
    return scan->at == (const uint8_t *)PyBytes_AS_STRING(input) + PyBytes_GET_SIZE(input);
}

static PyObject *read_one(Reader *reader, PyObject *raw)
{
    Member members[MEMBERS_MAX];
    Scan scan;
    Found found;
    if (!PyBytes_Check(raw))
        Py_RETURN_NONE;
    if (!begin_scan(&scan, raw, members))
        return NULL;
    uint8_t *room = scan.out;
    PyObject *event = NULL;
    if (read_event(&scan, found) && at_end(&scan, raw) && found[DATA].bytes <= reader->data_bytes_max)
        event = make_event(reader, found, raw);
    else
        event = Py_NewRef(Py_None);
    PyMem_Free(room);
    return event;
}

static PyObject *Reader_read(PyObject *self, PyObject *raw)
{
    return read_one((Reader *)self, raw);
}

static PyObject *Reader_read_many(PyObject *self, PyObject *raws)
{
    PyObject *sequence = PySequence_Fast(raws, "must be a sequence of bytes");
    if (sequence == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence);
    PyObject *events = PyList_New(count);
    for (Py_ssize_t i = 0; events != NULL && i < count; i++) {
        PyObject *event = read_one((Reader *)self, PySequence_Fast_GET_ITEM(sequence, i));
        if (event == NULL)
            Py_CLEAR(events);
        else
            PyList_SET_ITEM(events, i, event);
    }
    Py_DECREF(sequence);
    return events;
}

static bool takes_word(Scan *scan, const char *word)
{
    skip_space(scan);
    size_t length = strlen(word);
    if (strncmp((const char *)scan->at, word, length) != 0)
        return false;
    scan->at += length;
    return true;
}

/* The events of a batch, each found in the scan's memory; how many, or 0 where the batch is not surely good. */
static int read_events(Scan *scan, PyObject *body, Found *found, Py_ssize_t data_bytes_max)
{
    int count = 0;
    if (!takes(scan, '{') || !takes_word(scan, "\"events\"") || !takes(scan, ':') || !takes(scan, '['))
        return 0;
    do {
        if (count == EVENTS_MAX || !read_event(scan, found[count]) || found[count][DATA].bytes > data_bytes_max)
            return 0;
        count++;
    } while (takes(scan, ','));
    return takes(scan, ']') && takes(scan, '}') && at_end(scan, body) ? count : 0;
}

static PyObject *Reader_read_batch(PyObject *self, PyObject *body)
{
    Member members[MEMBERS_MAX];
    Found found[EVENTS_MAX];
    Scan scan;
    if (!PyBytes_Check(body))
        Py_RETURN_NONE;
    if (!begin_scan(&scan, body, members))
        return NULL;
    uint8_t *room = scan.out;
    int count = read_events(&scan, body, found, ((Reader *)self)->data_bytes_max);
    PyObject *events = count == 0 ? Py_NewRef(Py_None) : PyList_New(count);
    for (int i = 0; events != NULL && i < count; i++) {
        PyObject *event = make_event((Reader *)self, found[i], NULL);
        if (event == NULL)
            Py_CLEAR(events);
        else
            PyList_SET_ITEM(events, i, event);
    }
    PyMem_Free(room);
    return events;
}

static int Reader_init(PyObject *self, PyObject *arguments, PyObject *named)
{
    static char *names[] = {"event", "programs", "sha1", "sha256", "data_bytes_max", NULL};
    Reader *reader = (Reader *)self;
    PyObject *event, *programs, *sha1, *sha256;
    if (!PyArg_ParseTupleAndKeywords(arguments, named, "OOOOn", names, &event, &programs, &sha1, &sha256,
                                     &reader->data_bytes_max))
        return -1;
    Py_XSETREF(reader->event, Py_NewRef(event));
    Py_XSETREF(reader->programs, Py_NewRef(programs));
    Py_XSETREF(reader->sha1, Py_NewRef(sha1));
    Py_XSETREF(reader->sha256, Py_NewRef(sha256));
    return 0;
}

static int Reader_traverse(PyObject *self, visitproc visit, void *arg)
{
    Reader *reader = (Reader *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(reader->event);
    Py_VISIT(reader->programs);
    Py_VISIT(reader->sha1);
    Py_VISIT(reader->sha256);
    return 0;
}

static int Reader_clear(PyObject *self)
{
    Reader *reader = (Reader *)self;
    Py_CLEAR(reader->event);
    Py_CLEAR(reader->programs);
    Py_CLEAR(reader->sha1);
    Py_CLEAR(reader->sha256);
    return 0;
}

static void Reader_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    (void)Reader_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Reader_methods[] = {
    {"read", Reader_read, METH_O, "The event that a JSON object holds, or None where that is not surely good."},
    {"read_many", Reader_read_many, METH_O, "What `read` gives for each of a sequence of JSON objects."},
    {"read_batch", Reader_read_batch, METH_O, "The 1 to 100 events of {\"events\": [...]}, or None."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot Reader_slots[] = {
    {Py_tp_doc, "Reads events of plain spelling; see schemas.reader."},
    {Py_tp_init, Reader_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, Reader_traverse},
    {Py_tp_clear, Reader_clear},
    {Py_tp_dealloc, Reader_dealloc},
    {Py_tp_methods, Reader_methods},
    {0, NULL},
};

static PyType_Spec Reader_spec = {
    "schemas._scan.Reader",
    sizeof(Reader),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    Reader_slots,
};

static int add_reader(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&Reader_spec);
    if (type == NULL)
        return -1;
    int added = PyModule_AddObjectRef(module, "Reader", type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, add_reader}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "schemas._scan",
    "Events of plain spelling, read in one pass.",
    0,
    NULL,
    module_slots,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    return PyModuleDef_Init(&module);
}
