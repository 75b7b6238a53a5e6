// Package problem says what is wrong with what an admin has written, all of it
// at once: a [List] of [Problem] values, each with the object, the field, what is
// wrong and what to do. Checks of nouns, mappings and plans add to one list, and
// nobody has to correct one mistake to be told the next.
//
// A problem has a [Code], which is stable: readiness weighs problems by it, and
// documents name it. Values are plain data. A List is not safe for concurrent
// use while it is being added to.
package problem
